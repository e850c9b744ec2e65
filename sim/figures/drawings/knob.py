"""TPOT and hit rate against whichever number the runs were swept over: link bandwidth, batch size, a rule's knob."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import legend_above, line, metric_panels, plain_ticks
from sim.figures.conclusions import along
from sim.figures.drawing import MissingData, declare
from sim.figures.looks import line_look
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, capacity_words, one_capacity
from sim.figures.rates import add_rates
from sim.figures.run_settings import knob_axis, knob_words, names
from sim.figures.style import LINES, add_footnote

LEAST_VALUES = 3
OTHER_AXES = ("cache.fraction", "cache.slots_per_layer", "cache.bytes", "policy.alpha", "seed")
"""Numbers with a figure of their own, or that are no axis."""


@declare(
    "knob",
    "TPOT and hit rate against the number that was swept: link, batch, ...",
    heading="Against what was swept",
    place=70,
)
def knob(table: pd.DataFrame, columns: int = 2) -> Figure:
    """TPOT and decode hit rate against the overridden number with the most values, a line per policy.

    Raises: MissingData where no number has at least three values.
    """
    numbers = swept(table)
    if not numbers:
        raise MissingData(
            "figure=knob needs runs that differ in a number, at three values at least: "
            "python -m sim run -m policy=lru,importance hardware.link_bytes_per_s=6e9,12e9,26e9"
        )
    name = max(numbers, key=lambda key: numbers[key].nunique())
    runs = one_capacity(
        table.assign(knob=numbers[name]).dropna(subset=["knob", "tpot_s.mean"]).pipe(without_knob, name)
    )
    figure, panels = metric_panels(columns, "tpot_s.mean", "decode.hit_rate")
    times, hits = panels.values()
    groups = list(runs.groupby("line", sort=True))[: len(LINES)]
    wide = runs["knob"].min() > 0 and runs["knob"].max() / runs["knob"].min() > 20
    words, unit, factor = knob_axis(name)
    left_out = runs["line"].nunique() - len(groups)
    runs = runs.assign(knob=runs["knob"] * factor)
    for metric, panel in panels.items():
        for label, group in groups:
            line(panel, group.assign(knob=group["knob"] * factor), "knob", metric, line_look(group), str(label))
        panel.set_xlabel(f"{words[:1].upper()}{words[1:]}" + (f" ({unit})" if unit else ""))
        if wide:
            panel.set_xscale("log")
            plain_ticks(panel.xaxis)
    times.set_ylim(bottom=0)
    add_rates(times, runs, "tpot_s.mean")
    hits.set_ylim(0, 102)
    where = capacity_words(runs, table)
    title = "; ".join(filter(None, [where, f"{left_out} more lines are left out" if left_out else ""]))
    legend_above(figure, times.get_legend_handles_labels(), handlelength=3, title=title)
    says = along(runs, "knob", words)
    says = f"{where}: {says}" if where and says else says
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs), says)
    return figure


def swept(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Overrides whose values are numbers, at least three different ones: name -> value per run, NaN where not set."""
    words = [dict(str(word).lstrip("+~").split("=", 1) for word in one if "=" in str(word)) for one in
             table.get("overrides", pd.Series([()] * len(table)))]  # fmt: skip
    names = dict.fromkeys(key for one in words for key in one if key not in OTHER_AXES)
    columns = {name: pd.Series([_number(one.get(name)) for one in words], table.index) for name in names}
    if "batch_size" in table:
        columns["batch_size"] = table["batch_size"].astype(float)
    return {name: values for name, values in columns.items() if values.nunique() >= LEAST_VALUES}


def _number(word: Any) -> float:
    try:
        value = float(word)
    except (TypeError, ValueError):
        return math.nan
    return value if np.isfinite(value) else math.nan


def without_knob(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The runs with `line`, what they are called apart from the knob, whose words contender and set-up lose."""

    def strip(text: str) -> str:
        return " ".join(word for word in text.split(" ") if word.partition("=")[0] != name)

    setups = [
        " ".join(setup.replace(knob_words(name, str(value)), "").split())
        for setup, value in zip(runs["setup"].map(str), runs["knob"], strict=True)
    ]
    named = runs.assign(contender=runs["contender"].map(strip), setup=setups)
    return named.assign(line=names(named, but=name))
