"""Tokens per second and distinct experts per layer step against the drafts that a decode step verifies."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from sim.figures.chart_parts import legend_above, line, metric_panels, numbers, plain_ticks
from sim.figures.drawing import MissingData, declare
from sim.figures.drawings.knob import swept, without_knob
from sim.figures.looks import DASHES, line_look
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.style import LINES, add_footnote
from sim.results.table import layers_of

DRAFTS, SPEED, UNION = "speculate.tokens", "decode.tokens_per_s", "decode.union_size"


@declare(
    "speculation",
    "tokens per second and distinct experts against the drafts of a decode step",
    heading="Speculative decoding",
    place=75,
)
def speculation(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Tokens per second of decoding (on a logarithmic axis) and the union of a step's experts, a line per policy.

    Raises: MissingData where no runs differ in `speculate.tokens`, at three values at least.
    """
    drafts = swept(table).get(DRAFTS)
    if drafts is None:
        raise MissingData(
            "figure=speculation needs runs that differ in speculate.tokens, at three values at least: "
            "python -m sim run -m +experiment=speculation"
        )
    known = table.assign(knob=drafts.fillna(0)).dropna(subset=[SPEED, UNION])
    runs = one_capacity(known).pipe(without_knob, DRAFTS)
    figure, panels = metric_panels(columns, SPEED, UNION)
    groups, looks = list(runs.groupby("line", sort=True))[: len(LINES)], looks_of(runs)
    for metric, panel in panels.items():
        for label, group in groups:
            line(panel, group, "knob", metric, looks[str(label)], str(label))
        panel.set_xlabel("Drafts that a decode step verifies")
        panel.set_xticks(sorted(set(runs["knob"])))
    panels[SPEED].set_yscale("log")
    panels[SPEED].yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    panels[SPEED].minorticks_off()
    plain_ticks(panels[SPEED].yaxis)
    layers = layers_of(runs).partition(" (")[0]
    panels[SPEED].set_ylabel("Tokens per second" + (f",\n{layers}" if layers else " of decoding"))
    panels[UNION].set_ylim(bottom=0)
    left_out = runs["line"].nunique() - len(groups)
    title = f"{left_out} more lines are left out" if left_out else ""
    legend_above(figure, panels[SPEED].get_legend_handles_labels(), handlelength=3, title=title)
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs), says(runs))
    return figure


def looks_of(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Line -> look: a policy has one colour and marker, its lines differ in dashes and in how markers are filled."""
    looks: dict[str, dict[str, Any]] = {}
    for bound, alike in runs.groupby("bound"):
        for number, policy in enumerate(sorted(set(alike["policy"]))):
            labels = sorted(set(alike.loc[alike["policy"] == policy, "line"].map(str)))
            for place, label in enumerate(labels):
                looks[label] = line_look(pd.DataFrame({"look": [number], "bound": [bound], "place_look": [place]}))
                if len(labels) > 1:
                    looks[label]["linestyle"] = DASHES[place % len(DASHES)]
    return looks


def says(runs: pd.DataFrame) -> str:
    """For each line the drafts at which it is fastest, and by how much beside none."""
    parts = []
    for label, group in runs.groupby("line", sort=True):
        ordered = group.sort_values("knob")
        speeds = numbers(ordered, SPEED)
        if ordered["knob"].iloc[0] != 0 or not speeds[0] > 0:
            continue
        best = int(speeds.argmax())
        gain = f" (+{100 * (speeds[best] / speeds[0] - 1):.0f} %)" if best else ""
        parts.append(f"{label} {ordered['knob'].iloc[best]:g}{gain}")
    return f"Drafts at which each line is fastest: {'; '.join(parts)}." if parts else ""
