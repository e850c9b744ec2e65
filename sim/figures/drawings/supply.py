"""What the link and the CPU do for a token (SMoE, Figs. 20 and 22)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import (
    first_rows,
    known,
    legend_above,
    level_bars,
    name_rows,
    numbers,
    row_names,
    rows_in,
    side_by_side,
)
from sim.figures.conclusions import contenders, span
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.style import BLUE, ORANGE, VERMILLION, add_footnote

LINK, CPU = (VERMILLION, "////"), (ORANGE, "\\\\\\\\")


@declare("link_time", "time on the link beside TPOT (SMoE, Fig. 20)", heading="Time on the link", place=110)
def link_time(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Time on the link beside TPOT: extra copies cost nothing as long as something else runs meanwhile.

    Time on the link is bytes over the link's rate plus its latency for every copy, in decode steps.
    """
    runs = known(table, "decode.bytes_per_step", "decode.copies_per_step", "link_bytes_per_s", "tpot_s.mean")
    if runs.empty:
        raise MissingData(
            "figure=link_time needs runs with a clock and their steps.parquet: "
            "python -m sim run -m engine=compiled policy=lru,importance"
        )
    runs, title = first_rows(with_link_time(one_capacity(runs)))
    bars = (("link_s", "copies on the link", LINK), ("tpot_s.mean", "time per output token", (BLUE, "")))
    figure = _paired(runs, {"Time per decode step (ms)": (1e3, bars)}, columns, title)
    note = " TPOT of a batch includes the prefill of its other prompts." if runs["batch_size"].max() > 1 else ""
    live = contenders(runs)
    says = f"Copies are on the link for {span(100 * live['link_s'] / live['tpot_s.mean'])} % of the time per token."
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs) + note, says)
    return figure


@declare(
    "link_and_cpu", "how busy link and CPU are, and waits for them (SMoE, Fig. 22)", heading="Link and CPU", place=120
)
def link_and_cpu(table: pd.DataFrame, columns: int = 2) -> Figure:
    """How long link and CPU were busy, and how long decode steps waited for each of them."""
    runs = known(table, "link_utilisation", "cpu_utilisation", "time_s_per_token.link", "time_s_per_token.cpu")
    if runs.empty:
        raise MissingData(
            "figure=link_and_cpu needs runs with a clock: "
            "python -m sim run -m engine=compiled policy=importance policy/assignment=link_only,two_pointer"
        )
    runs, title = first_rows(one_capacity(runs))
    busy = (("link_utilisation", "link", LINK), ("cpu_utilisation", "CPU", CPU))
    waits = (("time_s_per_token.link", "link", LINK), ("time_s_per_token.cpu", "CPU", CPU))
    panels = {
        "Busy share of the time, prefill included (%)": (100.0, busy),
        "Waiting for it per decode token (ms)": (1e3, waits),
    }
    figure = _paired(runs, panels, columns, title)
    says = f"The link is busy for {span(100 * contenders(runs)['link_utilisation'])} % of the time."
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs), says)
    return figure


def with_link_time(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `link_s`: time that the copies of a decode step take on the link, in seconds."""
    rate, latency = numbers(runs, "link_bytes_per_s"), np.nan_to_num(numbers(runs, "link_latency_s"))
    columns = {}
    for end in ("", ".low", ".high"):
        amount, copies = (numbers(runs, f"decode.{name}_per_step{end}") for name in ("bytes", "copies"))
        columns[f"link_s{end}"] = amount / rate + copies * latency
    return runs.assign(**columns)


def _paired(runs: pd.DataFrame, panels: Mapping[str, tuple[float, Sequence[Any]]], columns: int, title: str) -> Figure:
    """Horizontal bars of two measures per run.

    `panels`: what stands at the abscissa -> scale, and (metric, word, colour and hatching) of both.
    """
    names = row_names(runs)
    figure, axes = side_by_side(len(panels), columns, 0.75 + rows_in(names, 0.3))
    for panel, (label, (scale, bars)) in zip(axes, panels.items(), strict=True):
        for index, (metric, word, look) in enumerate(bars):
            level_bars(panel, runs, metric, look, scale, 0.38, (index - 0.5) * 0.4, word)
        name_rows(panel, names if panel is axes[0] or columns == 1 else [""] * len(names))
        panel.set_xlabel(label)
    legend_above(figure, axes[0].get_legend_handles_labels(), title=title)
    return figure
