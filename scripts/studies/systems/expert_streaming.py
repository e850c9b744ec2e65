"""Prints Expert Streaming as published and as simulated: python -m scripts.studies.systems.expert_streaming [FOLDER]

Four models of the paper on a package of chiplets, expert parallelism (EP) against streaming (ES) on the same routing:
speed-up and on-chip memory over tokens per iteration, over the rates of memory channels and links, over slices and
slots, sizes of the package, and what every assumption is worth. All results SIMULATED; intervals are 95 % bootstraps
over draws. busy: share of the time in which dies compute; DDR: in which memory channels read; saved and MB: on-chip
memory of the package. Takes about four minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from scripts.command_line import parser_of, print_table, run
from sim.config import validate
from sim.paths import CONF
from sim.systems.expert_streaming.compare import Metrics, compare, metrics
from sim.systems.expert_streaming.config import Settings
from sim.systems.expert_streaming.routing import PAPER_MODELS
from traces.embedded import embedded_trace_path
from traces.format.files import read_trace

TOKENS = (16, 64, 256, 1024)
CHANNEL_GB_PER_S = (8, 16, 25.6, 48, 64, 96, 128)
LINK_GB_PER_S = (64, 128, 288, 512, 1024)
CODE = {"weight_bytes": 1 / 3, "macs_per_cycle": 3072.0}
"""The released code loads one of the three matrices and computes two thirds of the operations (model_shape_map.py)."""
MODEL_TITLES = ("Phi-3.5-MoE", "Yuan2.0-M32", "DeepSeek-MoE-16B", "Qwen3-30B-A3B")
AHEAD, ROOM, LOCKSTEP = "baseline without load ahead", "others take the room of who waits", "lockstep decoding"
FIVE = ("5 slots, link 288 GB/s", "5 slots, link 512 GB/s")
SLICES = ("32 slices per expert, 12 slots", "8 slices per expert, 12 slots")
FOOTNOTE = (
    "SIMULATED: one MoE layer, 2x2 dies, drawn routing (popularity ~ rank^-0.5), 10 draws; bars: 95 % bootstrap. "
    "Shaded: published range over the best of the paper's baselines, of which only expert parallelism is simulated."
)


def settings(**changes: Any) -> Settings:
    """The settings of the yaml with some changed, routing drawn."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "system" / "expert_streaming.yaml"))
    assert isinstance(config, dict)
    return validate(Settings, {str(key): value for key, value in config.items()} | {"routing": "drawn"} | changes)


def simulated(**changes: Any) -> Metrics:
    """Metrics of the settings of the yaml with some changed."""
    return metrics(compare(settings(**changes), None))


SHARES = {
    "busy EP": "baseline.compute_utilisation",
    "busy ES": "streaming.compute_utilisation",
    "DDR EP": "baseline.channel_utilisation",
    "DDR ES": "streaming.channel_utilisation",
    "saved": "sram_saved",
}
MEMORIES = {"MB EP": "baseline.sram_peak_bytes", "MB ES": "streaming.sram_peak_bytes"}


def row(name: str, values: Metrics) -> dict[str, str]:
    """One line of a table."""
    speed_up = f"{values['speedup']:.2f} [{values['speedup.low']:.2f}, {values['speedup.high']:.2f}]"
    shares = {title: f"{100 * float(values[key] or 0):.0f} %" for title, key in SHARES.items()}
    memories = {title: f"{float(values[key] or 0) / 1e6:.1f}" for title, key in MEMORIES.items()}
    return {"": name, "speed-up": speed_up} | shares | memories


def table(title: str, rows: Iterable[tuple[str, Metrics]]) -> dict[str, Metrics]:
    """Print a table; its rows by title."""
    by_title = dict(rows)
    print_table(title, (row(name, values) for name, values in by_title.items()))
    return by_title


def over_tokens() -> dict[str, Metrics]:
    """Speed-up and memory of the four models over tokens per iteration, and of the embedded trace."""
    trace = read_trace(embedded_trace_path())
    drawn = (
        (f"{model} {tokens}", simulated(model=model, tokens=tokens)) for model in PAPER_MODELS for tokens in TOKENS
    )
    by_title = table("Tokens per iteration, drawn routing", drawn)
    traced = (
        (f"demo trace, DeepSeek sizes {n}", metrics(compare(replace(settings(tokens=n), routing="trace"), trace)))
        for n in TOKENS
    )
    return by_title | table("Tokens per iteration, embedded trace", traced)


def varied(title: str, base: dict[str, Any], rows: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Metrics]:
    """A table of changes to the same settings, five draws each."""
    return table(title, ((name, simulated(**{"draws": 5} | base | changes)) for name, changes in rows))


def assumptions() -> dict[str, Metrics]:
    """What each assumption is worth; the rows of 1024 tokens and of token buffering by longer titles."""
    base = {"model": "deepseek_moe_16b", "tokens": 256}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("as configured", {}),
        ("not paired", {"paired": False}),
        ("load to the emptiest die", {"to_emptiest": True}),
        (AHEAD, {"baseline_slots": 1}),
        ("skew 0", {"skew": 0.0}),
        ("skew 1", {"skew": 1.0}),
        ("no time to start a computation", {"start_s": 0.0}),
        ("accounting of the released code", CODE),
        (f"... {AHEAD}", CODE | {"baseline_slots": 1}),
        ("... and the code's link time", CODE | {"d2d_bytes_per_s": 288e9 / 16}),
    ]
    by_title = varied("Assumptions, DeepSeek-MoE-16B, 256 tokens", base, rows)
    many = varied("The same with 1024 tokens", base | {"tokens": 1024}, rows[:6])
    by_title |= {f"{name}, 1024": values for name, values in many.items()}
    late = {"model": "phi_3_5_moe", "tokens": 16, "iterations": 8}
    for refill in (True, False):
        word = ROOM if refill else LOCKSTEP
        cases = [(f"{100 * slack:.0f} % may wait", {"slack": slack}) for slack in (0.0, 0.1, 0.2, 0.3)]
        some = varied(f"Token buffering, Phi-3.5-MoE, 16 tokens, {word}", late | {"refill": refill}, cases)
        by_title |= {f"{name}, {word}": values for name, values in some.items()}
    return by_title


def design_space() -> dict[tuple[float, float], Metrics]:
    """Share of time that dies compute under streaming, over the rates of channels and links; Qwen3, 256 tokens."""
    space: dict[tuple[float, float], Metrics] = {}
    for channel, link in product(CHANNEL_GB_PER_S, LINK_GB_PER_S):
        rates = {"ddr_bytes_per_s": channel * 1e9, "d2d_bytes_per_s": link * 1e9}
        space[channel, link] = simulated(model="qwen3_30b_a3b", tokens=256, draws=2, **rates)
    cells = {
        key: f"{100 * float(point['streaming.compute_utilisation'] or 0):.0f} % ({point['speedup']:.2f})"
        for key, point in space.items()
    }
    print_table(
        "Busy share of the dies under streaming (speed-up), Qwen3-30B-A3B, 256 tokens, 2 draws",
        (
            {"DDR GB/s per die": f"{channel:g}"} | {f"D2D {link}": cells[channel, link] for link in LINK_GB_PER_S}
            for channel in CHANNEL_GB_PER_S
        ),
    )
    return space


def sizes() -> dict[str, Metrics]:
    """Slices, slots and dies."""
    base = {"model": "qwen3_30b_a3b", "tokens": 256, "draws": 3, "ddr_bytes_per_s": 48e9}
    slots: list[tuple[str, dict[str, Any]]] = [
        (f"{n} slots, link {d:.0f} GB/s", {"slots": n, "d2d_bytes_per_s": d * 1e9})
        for d in (288, 512)
        for n in (4, 5, 6, 8, 12, 16)
    ]
    by_title = varied("Slots per die, 16 slices per expert, Qwen3-30B-A3B, 256 tokens, DDR 48 GB/s", base, slots)
    few = (("equal memory, 0.75 experts per die (at least 4 slots)", 3), ("12 slots each", 0))
    for title, slots_per_slice in few:
        cases: list[tuple[str, dict[str, Any]]] = []
        for n in (1, 2, 4, 8):
            held = max(4, slots_per_slice * n) if slots_per_slice else 12
            cases.append((f"{4 * n} slices per expert, {held} slots", {"slices_per_chiplet": n, "slots": held}))
        by_title |= varied(f"Slices per expert, {title}", base, cases)
    square: list[tuple[str, dict[str, Any]]] = [
        (f"{n}x{n} dies, link {d} GB/s", {"rows": n, "columns": n, "d2d_bytes_per_s": d * 1e9})
        for n in (2, 3, 4)
        for d in (288, 1024)
    ]
    phi = {"model": "phi_3_5_moe", "tokens": 256, "draws": 3}
    return by_title | varied("Size of the package, Phi-3.5-MoE, 256 tokens", phi, square)


def published(rows: dict[str, Metrics], parts: dict[str, Metrics], space: dict[tuple[float, float], Metrics]) -> None:
    """The paper's statements beside ours."""
    ups = [float(row["speedup"] or 0) for row in rows.values()]
    saved = [float(row["sram_saved"] or 0) for row in rows.values()]
    enough = [c for c in CHANNEL_GB_PER_S if float(space[c, 288]["streaming.compute_utilisation"] or 0) > 0.6]

    def up(title: str) -> str:
        return f"{parts[title]['speedup']:.2f}"

    def pair(first: str, second: str) -> str:
        return f"{up(first)} -> {up(second)}"

    wait = [[up(f"{n} % may wait, {w}") for n in (0, 10, 20, 30)] for w in (ROOM, LOCKSTEP)]
    configured, code = "as configured", "accounting of the released code"
    lines = (
        ("speed-up", "1.22 to 2.00, best baseline", f"{min(ups):.2f} to {max(ups):.2f} over expert parallelism"),
        ("  baseline loads nothing ahead", "", f"{up(AHEAD)} (256 tokens), {up(f'{AHEAD}, 1024')} (1024), DeepSeek"),
        ("  accounting of released code", "", f"{up(code)}, nothing ahead {up(f'... {AHEAD}')} (256), DeepSeek"),
        ("on-chip memory saved", "up to 78.8 %", f"{100 * min(saved):.0f} to {100 * max(saved):.0f} %"),
        ("> 60 % busy at D2D 288 GB/s", "about 48 GB/s DDR per die", f"{min(enough):g} of those tried, Qwen3, 256"),
        ("less memory wants faster links", "14 MB: up to 512 GB/s", f"5 slots, 288 -> 512: {pair(*FIVE)}"),
        ("slices per expert", "fewer than 10 preferred", f"12 slots, 32 -> 8: {pair(*SLICES)}; memory x 4"),
        ("paired load", "overlaps load and compute", f"{pair('not paired', configured)} (256), memory less; "
         f"{pair('not paired, 1024', f'{configured}, 1024')} (1024)"),
        ("load to the emptiest die", "little gain, dropped", pair(configured, "load to the emptiest die")),
        ("0/10/20/30 % of tokens wait", "gain; too much hurts", f"{'/'.join(wait[0])}; lockstep {'/'.join(wait[1])}"),
    )  # fmt: skip
    names = ("", "published", "simulated (speed-up where no unit is given)")
    print_table("Published beside simulated", (dict(zip(names, line, strict=True)) for line in lines))


def draw(by_title: dict[str, Metrics], folder: Path) -> None:
    """Speed-up and on-chip memory over tokens per iteration, as PDF and PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from sim.figures.registry import save
    from sim.figures.style import LINES, STYLE, WIDTH_IN, add_footnote

    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN[2], 2.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True)
        left.axhspan(1.22, 2.0, color="#DDDDDD", zorder=0)
        for model, name, look in zip(PAPER_MODELS, MODEL_TITLES, LINES, strict=False):
            rows = [by_title[f"{model} {tokens}"] for tokens in TOKENS]
            keys = ("speedup", "speedup.low", "speedup.high")
            ups, lows, highs = (np.array([float(row[key] or 0) for row in rows]) for key in keys)
            left.errorbar(TOKENS, ups, yerr=[ups - lows, highs - ups], **look, capsize=2, elinewidth=0.8, label=name)
            right.plot(TOKENS, [100 * float(one["sram_saved"] or 0) for one in rows], **look)
        right.axhline(78.8, color="#888888", linewidth=0.8)
        right.annotate("published: up to 78.8 %", (16, 78.8), xytext=(0, -8), textcoords="offset points", fontsize=6.5)
        left.set_xscale("log", base=2)
        left.set_xticks(TOKENS, [str(n) for n in TOKENS])
        left.set_ylabel("Speed-up over expert parallelism")
        right.set_ylabel("On-chip memory saved (%)")
        right.set_ylim(0, 100)
        for panel in (left, right):
            panel.set_xlabel("Tokens per iteration")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, handlelength=3)
        add_footnote(figure, FOOTNOTE)
        for path in save(figure, folder / "expert_streaming"):
            print(f"figure {path}")


def main(argv: list[str]) -> None:
    """Print all tables, draw the first."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="folder for the figure")
    folder = parser.parse_args(argv).folder
    speed_ups = over_tokens()
    if folder is not None:
        draw(speed_ups, folder)
    published(speed_ups, assumptions() | sizes(), design_space())


if __name__ == "__main__":
    run(main)
