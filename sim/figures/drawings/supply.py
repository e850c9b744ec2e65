"""What the link and the CPU do for a token (SMoE, Figs. 20 and 22)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import first_rows, legend_above, lengths_of, name_rows, numbers, rows_in, side_by_side
from sim.figures.drawing import Drawing, MissingData
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.style import BLUE, ORANGE, VERMILLION, add_footnote

LINK, CPU = (VERMILLION, "////"), (ORANGE, "\\\\\\\\")


def link_time(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Time on the link beside TPOT: extra copies cost nothing as long as something else runs meanwhile.

    Time on the link is bytes over the link's rate plus its latency for every copy, in decode steps.
    """
    needed = ("decode.bytes_per_step", "decode.copies_per_step", "link_bytes_per_s", "tpot_s.mean")
    runs = table.dropna(subset=list(needed)) if set(needed) <= set(table) else table.head(0)
    if runs.empty:
        raise MissingData(
            "figure=link_time needs runs with a clock and their steps.parquet: "
            "python -m sim run -m engine=compiled policy=lru,importance"
        )
    runs, note = first_rows(with_link_time(one_capacity(runs)))
    bars = (("link_s", "copies on the link", *LINK), ("tpot_s.mean", "time per output token", BLUE, ""))
    figure = _paired(runs, [("Time per decode step (ms)", bars, 1e3)], columns)
    note += " TPOT of a batch includes the prefill of its other prompts." if runs["batch_size"].max() > 1 else ""
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs) + note)
    return figure


def link_and_cpu(table: pd.DataFrame, columns: int = 2) -> Figure:
    """How long link and CPU were busy, and how long decode steps waited for each of them."""
    needed = ("link_utilisation", "cpu_utilisation", "time_s_per_token.link", "time_s_per_token.cpu")
    runs = table.dropna(subset=list(needed)) if set(needed) <= set(table) else table.head(0)
    if runs.empty:
        raise MissingData(
            "figure=link_and_cpu needs runs with a clock: "
            "python -m sim run -m engine=compiled policy=importance policy/assignment=link_only,two_pointer"
        )
    runs, note = first_rows(one_capacity(runs))
    busy = (("link_utilisation", "link", *LINK), ("cpu_utilisation", "CPU", *CPU))
    waits = (("time_s_per_token.link", "link", *LINK), ("time_s_per_token.cpu", "CPU", *CPU))
    panels = [("Busy share of the time, prefill included (%)", busy, 100.0), ("Waiting for it per decode token (ms)",
              waits, 1e3)]  # fmt: skip
    figure = _paired(runs, panels, columns)
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs) + note)
    return figure


def with_link_time(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `link_s`: time that the copies of a decode step take on the link, in seconds."""
    rate, latency = numbers(runs, "link_bytes_per_s"), np.nan_to_num(numbers(runs, "link_latency_s"))
    columns = {}
    for end in ("", ".low", ".high"):
        amount, copies = (numbers(runs, f"decode.{name}_per_step{end}") for name in ("bytes", "copies"))
        columns[f"link_s{end}"] = amount / rate + copies * latency
    return runs.assign(**columns)


def _paired(
    runs: pd.DataFrame, panels: Sequence[tuple[str, tuple[tuple[str, ...], ...], float]], columns: int
) -> Figure:
    """Horizontal bars of two measures per run, a panel each; legend from the first."""
    names = [str(name) for name in runs["name"]]
    figure, axes = side_by_side(len(panels), columns, 0.75 + rows_in(names, 0.3))
    for place, (label, bars, scale) in enumerate(panels):
        for index, (metric, word, color, hatch) in enumerate(bars):
            rows = np.arange(len(runs)) + (index - 0.5) * 0.4
            axes[place].barh(
                rows, numbers(runs, metric, scale), 0.38, color=color, hatch=hatch, edgecolor="white", linewidth=0.3,
                xerr=lengths_of(runs, metric, scale), label=word,
                error_kw={"elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7},
            )  # fmt: skip
        name_rows(axes[place], names if place == 0 or columns == 1 else [""] * len(names))
        axes[place].set_xlabel(label)
    legend_above(figure, axes[0].get_legend_handles_labels())
    return figure


DRAWINGS = (
    Drawing(
        "link_time", "time on the link beside TPOT (SMoE, Fig. 20)", link_time, heading="Time on the link", place=110
    ),
    Drawing(
        "link_and_cpu",
        "how busy link and CPU are, and waits for them (SMoE, Fig. 22)",
        link_and_cpu,
        heading="Link and CPU",
        place=120,
    ),
)
