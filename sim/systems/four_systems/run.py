"""Four systems side by side on the same requests, sizes and parts: what `system=four_systems` runs, writes and prints.

Like for like: GPU, host link, launches and host time are those of the run's hardware and runtime wherever a system has
such a part. OD-MoE has one of each per worker. Expert Streaming has the same arithmetic rate, and the link's bandwidth
spread over its memory channels; a second row has what its paper's channels have. Its attention and host are those of
the device. Neither the time of MoE-Beyond's own network nor what SMoE's CPU experts read is counted. A system that
needs more parts shows it under memory and parts. The energy is a proxy, ESTIMATED: bytes and FLOP of a decode step
times the figures of `bench.ENERGY`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from sim.config import to_plain_dict, validate
from sim.formatting import of_layers
from sim.machine.geometry import model_layers
from sim.predictors.checkpoint import EMBEDDED
from sim.results.json_files import write_json
from sim.results.outputs import SIMULATED, versions
from sim.systems.four_systems.bench import ENERGY, Bench, Row
from sim.terminal import next_commands
from traces.errors import UserError
from traces.text import printable, spreadsheet_cell
from traces.whole_file import write_whole

FILE = "four_systems.csv"
PAPER_CHANNELS = 4 * 25.6e9
"""Bytes per second of the four memory channels of Expert Streaming's test chip."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`draws`: layer steps of the package that the interval is taken over; `checkpoint`: MoE-Beyond's predictor."""

    name: str
    draws: int = 200
    checkpoint: str = EMBEDDED

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= 100_000:
            raise UserError(f"system.draws={self.draws}: must be from 1 to 100000")


def beside_policies(config: DictConfig, folder: Path) -> tuple[str, str]:
    """Run all systems, write four_systems.csv, metrics.json and provenance.json -> (what is printed, its table alone).

    Raises: UserError for a batch, a knob or sizes that do not fit.
    """
    settings = validate(Settings, to_plain_dict(config.system, "system"), "system.")
    if config.batch_size != 1:
        raise UserError(
            f"batch_size={config.batch_size}: system=four_systems serves one request at a time: batch_size=1"
        )
    if config.timeline or config.what_if:
        raise UserError("timeline and what_if: only for system=device; system=four_systems prints a table")
    bench = Bench(config, settings.draws)
    rows, refused = collected(systems(bench, settings.checkpoint))
    rows.sort(key=lambda row: row.tpot_s)
    frame = pd.DataFrame([asdict(row) | {"energy_j": row.energy_j, "label": SIMULATED} for row in rows])
    layers = of_layers(bench.trace.num_layers, model_layers(bench.geometry), bench.trace.recorded_layers)
    frame = frame.assign(layers=layers, model=bench.geometry.model, hardware=bench.hardware.name)
    write_whole(folder / FILE, frame.map(spreadsheet_cell).to_csv(index=False).encode())
    write_json(folder / "provenance.json", provenance(config, bench, refused))
    write_json(folder / "metrics.json", metrics(rows, bench))
    shown = "\n".join([heading(bench, layers), *table(rows), best_of(rows)])
    notes = [f"left out: {sentence}" for sentence in refused]
    text = "\n".join([shown, *notes, COMPARABLE, f"all columns: {folder / FILE}"])
    return f"{text}\n{next_commands(['plot', folder, 'figure=four_systems'])}", shown


COMPARABLE = (
    "taken from the run: requests, sizes, GPU, link, launches, host time and the cache's capacity, by every system\n"
    "  that has such a part; comparable with runs of `policy=...` under the same settings (docs/systems.md)\n"
    "energy ESTIMATED, a proxy: bytes and FLOP of a decode step times fixed figures"
)


def systems(bench: Bench, checkpoint: str) -> Iterator[tuple[str, Callable[[], Iterable[Row]]]]:
    """Name of every system -> what runs it, the bounds of the device first."""

    def device(name: str, *overrides: str) -> tuple[str, Callable[[], Iterable[Row]]]:
        return name, lambda: [bench.device(name, *overrides)]

    beyond = f"policy.prediction.checkpoint='{checkpoint}'", f"policy.prefetch.n={bench.geometry.top_k}"
    own = bench.hardware.link_bytes_per_s
    yield device("all resident", "policy=all_resident")
    yield device("LRU", "policy=lru")
    yield device("SMoE", "policy=importance")
    yield device("SMoE, link only", "policy=importance", "policy/assignment=link_only")
    yield device("MoE-Beyond", "policy=moe_beyond", *beyond)
    for groups, network, rate in ((2, "1 Gb/s", 117.6e6), (4, "1 Gb/s", 117.6e6), (4, "10 Gb/s", 1.176e9)):
        yield "OD-MoE", lambda n=groups, word=network, r=rate: [bench.od_moe(n, word, r)]  # type: ignore[misc]
    for rate in (own, PAPER_CHANNELS):
        yield "Expert Streaming", lambda r=rate: bench.package(f"{r / 1e9:.3g} GB/s", r)  # type: ignore[misc]


def collected(found: Iterable[tuple[str, Callable[[], Iterable[Row]]]]) -> tuple[list[Row], list[str]]:
    """(the rows, what was refused and why: a trace may lack what a system needs)."""
    rows: list[Row] = []
    refused: list[str] = []
    for name, run in found:
        try:
            rows += run()
        except UserError as error:
            refused.append(f"{name}: {printable(str(error))}")
    return rows, list(dict.fromkeys(refused))


def heading(bench: Bench, layers: str) -> str:
    """What was run."""
    return (
        f"{SIMULATED}: {bench.trace.num_requests} requests, {bench.geometry.model}, hardware {bench.hardware.name}, "
        f"runtime {bench.runtime.name}, batch 1; times {layers}".rstrip()
    )


def table(rows: list[Row]) -> list[str]:
    """The systems as aligned lines, the fastest first."""
    head = ("system", "TPOT ms", "95 %", "memory GB", "link MB/token", "mJ/token", "mass lost")
    lines = [head]
    for row in rows:
        span = f"{1e3 * row.tpot_low_s:.1f} to {1e3 * row.tpot_high_s:.1f}" if isfinite(row.tpot_low_s) else "-"
        numbers = (f"{row.memory_bytes / 1e9:.2f}", f"{row.link_bytes / 1e6:.0f}", f"{1e3 * row.energy_j:.0f}")
        lines.append((row.system, f"{1e3 * row.tpot_s:.1f}", span, *numbers, f"{row.lost:.1%}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]


def best_of(rows: list[Row]) -> str:
    """Which system needs least of what, all experts resident left out."""
    measures: dict[str, Callable[[Row], float]] = {
        "time": lambda row: row.tpot_s,
        "memory": lambda row: row.memory_bytes,
        "bytes": lambda row: row.link_bytes,
        "energy": lambda row: row.energy_j,
    }
    others = [row for row in rows if row.system != "all resident"]
    least = [f"least {name}: {min(others, key=measure).system}" for name, measure in measures.items()]
    return f"Where not all experts are resident, {'; '.join(least)}." if others else ""


def metrics(rows: list[Row], bench: Bench) -> dict[str, Any]:
    """The flat row of metrics: `SYSTEM.tpot_s` and so on."""
    found: dict[str, Any] = {"label": SIMULATED, "system": "four_systems", "model": bench.geometry.model}
    for row in rows:
        values = asdict(row) | {"energy_j": row.energy_j}
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float) and isfinite(value)}
        found |= {f"{row.system}.{key}": value for key, value in numbers.items()}
    return found


def provenance(config: DictConfig, bench: Bench, refused: list[str]) -> dict[str, Any]:
    """Where the result comes from and how far it reaches."""
    energy = ", ".join(f"{name}={value:g}" for name, value in ENERGY.items())
    return {
        "system": "four_systems",
        "label": SIMULATED,
        "estimated": [f"energy: a proxy, {energy}", *bench.resident.notes.estimated],
        "left_out": refused,
        "trace_hash": bench.trace.content_hash,
        "seed": int(config.seed),
        "versions": versions(),
        "config": to_plain_dict(config),
    }


def read_table(path: Path) -> list[Row]:
    """The rows of a four_systems.csv. Raises: UserError for another file."""
    names = [field.name for field in fields(Row)]
    try:
        frame = pd.read_csv(path)
        return [Row(**{name: row[name] for name in names}) for _, row in frame.iterrows()]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no table of system=four_systems: {error}") from error
