"""How good prefetching was: what became of the experts that were fetched early (SMoE, Fig. 21)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import (
    AXES,
    bar_look,
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
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.style import BLACK, BLUE, GREEN, ORANGE, VERMILLION, add_footnote

ENDS = {
    "used": ("in time", GREEN, ""),
    "late": ("demanded while on the link", ORANGE, "////"),
    "wasted": ("not demanded", VERMILLION, "\\\\\\\\"),
    "abandoned": ("given up half way", BLACK, ""),
}
"""How a prefetch that started ends: word, colour and hatching."""


@declare("prefetch_accuracy", "what became of prefetches (SMoE, Fig. 21)", heading="Prefetches", place=100)
def prefetch_accuracy(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Share of prefetched experts that the next layer demanded, and prefetches per decode token by how they ended."""
    name = "decode.prefetch_precision"
    runs = known(table[numbers(table, "decode.prefetches_per_token") > 0], name)
    if runs.empty:
        raise MissingData(
            "figure=prefetch_accuracy needs a policy that prefetches: "
            "python -m sim run -m policy=importance,hybrimoe_code"
        )
    runs, title = first_rows(one_capacity(runs).drop_duplicates(["series", name]))
    names = row_names(runs)
    figure, (share, amount) = side_by_side(2, columns, 0.75 + rows_in(names))
    level_bars(share, runs, name, (BLUE, ""))
    name_rows(share, names)
    share.set(xlabel=AXES[name].label, xlim=(0, 102))
    left = np.zeros(len(runs))
    for end, (word, color, hatch) in ENDS.items():
        width = np.nan_to_num(numbers(runs, f"decode.{end}_per_token"))
        if width.sum() > 0:
            amount.barh(np.arange(len(runs)), width, 0.7, left=left, label=word, **bar_look(color, hatch))
        left += width
    name_rows(amount, names if columns == 1 else [""] * len(names))
    amount.set_xlabel("Prefetches that started, per decode token")
    legend_above(figure, amount.get_legend_handles_labels(), title=title)
    first = runs.iloc[int(np.nanargmax(runs[name].to_numpy(np.float64)))]
    says = f"The most accurate is {first['name']}: {100 * first[name]:.0f} % of what it fetched early was demanded."
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs), says)
    return figure
