"""Single terms of the time model beside published figures of copies, computations and tokens per second."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.machine.durations import compute_s, copy_s, cpu_rates, launch_s
from sim.machine.hardware import Hardware, load_hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime, load_runtime
from sim.validation.findings import CALIBRATION, PREDICTED, Row, signed_error_percent
from sim.validation.published.csv_rows import read_rows
from traces.errors import UserError

COLUMNS = ("source", "model", "hardware", "quantity", "value", "unit", "conditions")
UNITS = {"ms": 1e-3, "us": 1e-6, "s": 1.0}
EXPERTFLOW, FIDDLER, IMP_CACHE, PHONE = "Expertflow", "efeslab/fiddler#7", "kekzl/imp#1374", "BigMoeOnEdge benchmarks"
MIXTRAL_EXPERT_BYTES = 352_321_536
"""3 * 4096 * 14336 numbers of 16 bits."""


@dataclass(frozen=True, slots=True)
class Published:
    """One row of the table, as it stands there."""

    source: str
    model: str
    hardware: str
    quantity: str
    value: str
    unit: str
    conditions: str

    def seconds(self) -> float:
        """The value of a row that states one duration."""
        try:
            return float(self.value) * UNITS[self.unit]
        except (KeyError, ValueError) as error:
            raise UserError(f"{self.source}: {self.value!r} {self.unit} is not a duration") from error


def read_published(path: Path) -> list[Published]:
    """The rows of the table. Raises: UserError where a column is missing."""
    return [Published(*(row[name] for name in COLUMNS)) for row in read_rows(path, COLUMNS)]


def find(rows: Sequence[Published], source: str, quantity: str, model: str = "") -> Published | None:
    """The first row whose source, quantity and model contain these words."""
    for row in rows:
        if source in row.source and quantity in row.quantity and model in row.model:
            return row
    return None


def term_rows(rows: Sequence[Published]) -> tuple[list[Row], list[str]]:
    """All terms that the table allows to check, and what it lacks."""
    terms: list[Row] = []
    lacking = []
    for name, function in TERMS.items():
        term = function(rows)
        terms += term
        if not term:
            lacking.append(f"{name}: its rows are not in the table")
    return terms, lacking


def row_of(term: str, conditions: str, use: str, published: float, model: float, unit: str = "ms") -> Row:
    return {
        "term": term,
        "conditions": conditions,
        "use": use,
        "published": published,
        "model": model,
        "unit": unit,
        "error_percent": signed_error_percent(model, published),
    }


def copies_of(rows: Sequence[Published]) -> list[Row]:
    """t(x) = x / beta of one expert of 3.3 MB, beta from a copy of eight: what a latency per copy would add shows."""
    copies: list[Row] = []
    for kind in ("pinned", "pageable"):
        large = find(rows, EXPERTFLOW, f"H2D {kind}", "8 experts")
        small = find(rows, EXPERTFLOW, f"H2D {kind}", "expert 3345412")
        if large is None or small is None:
            continue
        sizes = [int(_first(r"(\d{4,}) B", row.model)) for row in (small, large)]
        rate = sizes[1] / large.seconds()
        machine = _machine(rate, kind)
        model = copy_s(sizes, machine) * 1e3
        for size, row, value, use in zip(sizes, (small, large), model.tolist(), (PREDICTED, CALIBRATION), strict=True):
            copies.append(row_of(f"copy, {kind}", f"{size} bytes, {row.hardware}", use, row.seconds() * 1e3, value))
    return copies


def fiddler_expert(rows: Sequence[Published]) -> list[Row]:
    """The named machine rtx4090 beside the figures that its file was fitted on: it must give them back."""
    machine = Machine(load_hardware("rtx4090"), load_runtime("eager_hf")).with_figures({"copies_per_expert": 1})
    hardware, tokens = machine.hardware, np.array([0.0, 1.0])
    rate = hardware.gpu_memory_bytes_per_s * machine.runtime.gpu_memory_share
    gpu = compute_s([MIXTRAL_EXPERT_BYTES], 16.0, tokens, rate, hardware.gpu_flops_per_s)[0, 1]
    cpu = compute_s([MIXTRAL_EXPERT_BYTES], 16.0, tokens, *cpu_rates(machine))
    models = {
        "H2D copy one expert pinned": ("copy, pinned", float(copy_s([MIXTRAL_EXPERT_BYTES], machine)[0])),
        "GPU execution": ("expert on the GPU", float(gpu) + launch_s(machine)[0]),
        "CPU execution": ("expert on the CPU", float(cpu[0, 1])),
    }
    terms: list[Row] = []
    for quantity, (term, seconds) in models.items():
        row = find(rows, FIDDLER, quantity)
        if row is not None:
            conditions = f"{MIXTRAL_EXPERT_BYTES} bytes, hardware=rtx4090"
            terms.append(row_of(term, conditions, CALIBRATION, row.seconds() * 1e3, seconds * 1e3))
    return terms


def token_time_by_hits(rows: Sequence[Published]) -> list[Row]:
    """Time per token = base + cost * miss rate: fitted on the smallest and the largest cache, the others predicted."""
    chosen = [row for row in rows if IMP_CACHE in row.source and "slots/layer" in row.quantity]
    points = [(int(_first(r"cache (\d+) slots", row.quantity)), 1 / float(row.value), _hit(row)) for row in chosen]
    return _line("token by miss rate", [(f"{slots} slots per layer", 1 - hit, s) for slots, s, hit in sorted(points)])


def token_time_by_bytes(rows: Sequence[Published]) -> list[Row]:
    """Time per token = base + bytes read / rate on a phone: fitted on no cache and the largest, the other predicted."""
    row = find(rows, PHONE, "cache 0 / 2000 / 4000")
    if row is None:
        return []
    rates = [float(word) for word in row.value.split("/")]
    reads = [float(word) for word in _first(r"read ([\d/]+) MiB", row.conditions).split("/")]
    names = [f"cache of {mib} MiB, {read:g} MiB read" for mib, read in zip((0, 2000, 4000), reads, strict=True)]
    return _line("token by bytes read", [(n, r, 1 / rate) for n, r, rate in zip(names, reads, rates, strict=True)])


def _line(term: str, points: Sequence[tuple[str, float, float]]) -> list[Row]:
    """Rows (conditions, abscissa, seconds) beside the line through the first and the last of them."""
    if len(points) < 3:
        return []
    (_, first_x, first_s), (_, last_x, last_s) = points[0], points[-1]
    slope = (last_s - first_s) / (last_x - first_x)
    terms: list[Row] = []
    for index, (conditions, x, seconds) in enumerate(points):
        use = CALIBRATION if index in (0, len(points) - 1) else PREDICTED
        terms.append(row_of(term, conditions, use, seconds * 1e3, (first_s + slope * (x - first_x)) * 1e3))
    return terms


def _hit(row: Published) -> float:
    return float(_first(r"hit ([\d.]+)%", row.conditions)) / 100


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise UserError(f"{text!r} does not say {pattern}")
    return match[1]


def _machine(bytes_per_s: float, memory: str) -> Machine:
    hardware = Hardware(
        name="one fitted rate",
        gpu_memory_bytes=1,
        gpu_memory_bytes_per_s=1.0,
        gpu_flops_per_s=1.0,
        link_latency_s=0.0,
        link_bytes_per_s=bytes_per_s,
        pageable_bytes_per_s=bytes_per_s,
        label="FITTED",
        sources={"link_bytes_per_s": "FITTED: the larger copy"},
    )
    return Machine(hardware, Runtime("one fitted rate", memory=memory))


TERMS = {
    "copies by size": copies_of,
    "one Mixtral expert": fiddler_expert,
    "token by miss rate": token_time_by_hits,
    "token by bytes read": token_time_by_bytes,
}
