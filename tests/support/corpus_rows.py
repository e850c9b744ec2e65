"""Rows of a made corpus: cells that a test changes one by one."""

import csv
from collections.abc import Iterable
from pathlib import Path

from sim.validation.published.corpus.tables import COLUMNS, MACHINE_COLUMNS

ROW = {
    "row_id": "r1", "series_id": "s1", "machine_id": "m1", "model": "Qwen3-30B-A3B", "quantisation": "Q4_K_M",
    "runtime": "llama.cpp", "placement_kind": "n-cpu-moe layers", "placement_value": "36", "batch": "1",
    "decode_tok_s": "36.7", "source": "somebody/somewhere#1", "confidence": "high",
}  # fmt: skip
MACHINE = {
    "machine_id": "m1", "gpu": "RTX 2080", "gpu_count": "1", "cpu": "Core i9-10900X", "ram_gb": "64",
    "ram_bandwidth_gb_s": "102", "source": "somebody/somewhere#1",
}  # fmt: skip


def measurement_cells(**cells: str) -> dict[str, str]:
    """Cells of one row of `corpus.csv`."""
    return dict.fromkeys(COLUMNS, "") | ROW | cells


def machine_cells(**cells: str) -> dict[str, str]:
    """Cells of one row of `machines.csv`."""
    return dict.fromkeys(MACHINE_COLUMNS, "") | MACHINE | cells


def write_corpus(folder: Path, rows: Iterable[dict[str, str]], machines: Iterable[dict[str, str]]) -> Path:
    """Both files -> the folder."""
    for name, columns, cells in (("corpus.csv", COLUMNS, rows), ("machines.csv", MACHINE_COLUMNS, machines)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(cells)
    return folder
