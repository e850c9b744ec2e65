"""Prints four systems side by side, same trace, sizes and parts: python -m scripts.studies.systems.four_systems

  python -m scripts.studies.systems.four_systems [--out FOLDER]
  python -m scripts.studies.systems.four_systems --redraw docs/results/four_systems.csv --out docs/figures

SMoE, MoE-Beyond, OD-MoE and Expert Streaming serve the same requests of the embedded trace, one at a time, with the
sizes of DeepSeek-MoE-16B (6 MoE layers of it). Like for like: a GPU, a host link, launches and host time are those of
--hardware wherever a system has such a part; OD-MoE has one of each per worker, Expert Streaming has the same
arithmetic rate and the link's bandwidth spread over its memory channels (a second row has four times as much: its
paper's 25.6 GB/s per channel). Its attention and host are those of the device.
Neither the time of MoE-Beyond's own network nor what SMoE's CPU experts read is counted. A system that needs more
parts shows it under memory and parts: no row is better in all.
Everything is SIMULATED; the energy is a proxy, ESTIMATED: bytes and FLOP of a decode step times the figures of ENERGY.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.command_line import parser_of, run
from scripts.studies.systems.bench import Bench, Row
from sim.figures.chart_parts import bar_look
from sim.figures.style import BLUE, GREEN, ORANGE, PURPLE
from sim.predictors.checkpoint import EMBEDDED
from traces.errors import UserError
from traces.text import spreadsheet_cell
from traces.whole_file import write_whole


def rows(bench: Bench, checkpoint: str) -> Iterator[Row]:
    """All systems, the bounds of the device first."""
    yield bench.device("all resident", "policy=all_resident")
    yield bench.device("LRU", "policy=lru")
    yield bench.device("SMoE", "policy=importance")
    yield bench.device("SMoE, link only", "policy=importance", "policy/assignment=link_only")
    top = f"policy.prefetch.n={bench.geometry.top_k}"
    yield bench.device("MoE-Beyond", "policy=moe_beyond", f"policy.prediction.checkpoint='{checkpoint}'", top)
    for groups in (2, 4):
        yield bench.od_moe(groups, "1 Gb/s", 117.6e6)
    yield bench.od_moe(4, "10 Gb/s", 1.176e9)
    yield from bench.package(f"{bench.hardware.link_bytes_per_s / 1e9:.3g} GB/s", bench.hardware.link_bytes_per_s)
    yield from bench.package("102 GB/s", 4 * 25.6e9)


def table(systems: list[Row], quality: dict[str, float]) -> str:
    """Markdown."""
    head = (
        "| system | parts | TPOT ms (95 %) | TTFT ms | GPU or on-chip memory GB | link or DDR MB/token | "
        "between devices MB/token | GFLOP/token | energy proxy mJ/token | gate mass lost | perplexity |"
    )
    lines = [head, "|" + "---|" * 11]
    for row in systems:
        ttft = "-" if row.ttft_s is None else f"{1e3 * row.ttft_s:.0f}"
        effect = quality.get(row.system)
        shown = "not measured" if effect is None else f"{effect:.4f}"
        lines.append(
            f"| {row.system} | {row.parts} | {1e3 * row.tpot_s:.1f} ({1e3 * row.tpot_low_s:.1f} to "
            f"{1e3 * row.tpot_high_s:.1f}) | {ttft} | {row.memory_bytes / 1e9:.2f} | {row.link_bytes / 1e6:.0f} | "
            f"{row.device_bytes / 1e6:.2f} | {row.flop / 1e9:.2f} | {1e3 * row.energy_j:.0f} | {row.lost:.1%} | "
            + ("unchanged |" if row.lost == 0 else f"{shown} |")
        )
    return "\n".join(lines)


def measured_quality(path: Path | None) -> dict[str, float]:
    """Perplexity ratios by system, as ``python -m sim quality`` measured them. Raises: UserError for another file."""
    if path is None:
        return {}
    try:
        ratio = float(json.loads(path.read_text(encoding="utf-8"))["policy.perplexity_ratio"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--quality {path}: not a quality.json of `python -m sim quality` ({error!r})") from error
    return {"SMoE": ratio}


def draw(rows: list[Row], stem: Path) -> None:
    """Times, memory, bytes and energy of every system, PDF, PNG and SVG."""
    from matplotlib.figure import Figure

    from sim.figures.registry import save
    from sim.figures.style import WIDTH_IN, add_footnote
    from sim.figures.text_of_others import figure_style

    panels = (
        ("Time per output token\n(ms), for 6 of 27 layers", [1e3 * row.tpot_s for row in rows]),
        ("GPU or on-chip\nmemory (GB)", [row.memory_bytes / 1e9 for row in rows]),
        ("Host link or DDR\n(MB per token)", [row.link_bytes / 1e6 for row in rows]),
        ("Energy, a proxy\n(mJ per token)", [1e3 * row.energy_j for row in rows]),
    )
    places = np.arange(len(rows))[::-1]
    with figure_style():
        figure = Figure(figsize=(WIDTH_IN[2], 0.65 + 0.19 * len(rows)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True)
        for axis, (label, values) in zip(axes, panels, strict=True):
            for place, value, row in zip(places, values, rows, strict=True):
                color, hatch = look_of_row(row)
                axis.barh(place, value, height=0.7, **bar_look(color, hatch))
                high = 1e3 * row.tpot_high_s if axis is axes[0] else value
                axis.annotate(
                    f"{value:.3g}",
                    (max(value, high), place),
                    xytext=(2.5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=6,
                )
            axis.set_xlim(0, 1.3 * max(values))
            axis.tick_params(axis="y", length=0)
            axis.set_xlabel(label)
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(places, [row.system for row in rows])
        spans = np.array([(row.tpot_s - row.tpot_low_s, row.tpot_high_s - row.tpot_s) for row in rows]).T
        axes[0].errorbar(
            panels[0][1], places, xerr=1e3 * np.maximum(spans, 0), fmt="none", ecolor="black", elinewidth=0.8
        )
        note = (
            "SIMULATED, batch 1, the embedded trace with the sizes of DeepSeek-MoE-16B. Energy is ESTIMATED: bytes and "
            "FLOP times fixed figures. Bars of times: 95 % over requests or draws. Grey: all experts resident."
        )
        add_footnote(figure, note, best_of(rows))
        save(figure, stem)


LOOKS = {"all resident": ("#333333", ""), "OD-MoE": (PURPLE, "...."), "Expert Streaming": (GREEN, "\\\\\\\\")}


def look_of_row(row: Row) -> tuple[str, str]:
    """Colour and hatching of a system, its variants alike; one GPU blue, the chiplets' baseline orange."""
    for name, look in LOOKS.items():
        if row.system.startswith(name):
            return look
    return (ORANGE, "////") if "dies" in row.parts else (BLUE, "")


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


def read_table(path: Path) -> list[Row]:
    """The rows of a four_systems.csv. Raises: UserError for another file."""
    names = [field.name for field in fields(Row)]
    try:
        table = pd.read_csv(path)
        return [Row(**{name: row[name] for name in names}) for _, row in table.iterrows()]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--redraw {path}: no table of this study ({error})") from error


def main(argv: list[str]) -> None:
    """Print the table, and write it with its figure where --out says."""
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", default=EMBEDDED, help="what train-predictor wrote; default: the package's own")
    parser.add_argument("--quality", type=Path, help="quality.json of `python -m sim quality policy=importance`")
    parser.add_argument("--hardware", default="s1_rtx3080ti")
    parser.add_argument("--capacity", type=float, default=0.25, help="share of the experts that a GPU's cache holds")
    parser.add_argument("--draws", type=int, default=200, help="layer steps of the chiplet package")
    parser.add_argument("--out", type=Path, help="folder for four_systems.csv, .pdf, .png and .svg")
    parser.add_argument("--redraw", type=Path, metavar="CSV", help="only draw the figure of this table, into --out")
    given = parser.parse_args(argv)
    if given.redraw is not None:
        draw(read_table(given.redraw), (given.out or given.redraw.parent) / "four_systems")
        return
    systems = list(rows(Bench(given.hardware, given.capacity, given.draws), given.checkpoint))
    print(table(systems, measured_quality(given.quality)))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame([asdict(row) | {"energy_j": row.energy_j, "label": "SIMULATED"} for row in systems])
        write_whole(given.out / "four_systems.csv", frame.map(spreadsheet_cell).to_csv(index=False).encode())
        draw(systems, given.out / "four_systems")


if __name__ == "__main__":
    run(main)
