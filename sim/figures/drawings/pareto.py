"""Latency against what it costs in quality: every run a point, the ones that nothing beats joined."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sim.figures.chart_parts import grid, legend_above, lengths_of, numbers, unique
from sim.figures.drawing import Drawing, MissingData
from sim.figures.drawings.capacity import FUTURE
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.run_settings import GROUPS, group_words
from sim.figures.style import BLACK, LINES, add_footnote

COSTS = (
    ("quality.perplexity_ratio", "Perplexity over that\nof exact routing", 1.0),
    ("decode.lost_gate_mass", "Gate mass not executed\nas routed, decode (%)", 100.0),
)
"""Measures of quality, the best first: column, axis, scale. Gate mass is a proxy, perplexity was measured."""
SHOWN_PANELS, NAMED_POINTS, NAME_LETTERS = 6, 8, 24


def pareto(table: pd.DataFrame, columns: int = 2) -> Figure:
    """TPOT and cost in quality of every run, a panel per set-up, workload and batch size.

    The line joins the runs that no other beats in both; rules that see the future are grey and beat nobody.

    Raises: MissingData for fewer than two runs with both.
    """
    cost = next((one for one in COSTS if np.isfinite(numbers(table, one[0])).any()), COSTS[-1])
    runs = candidates(table, cost[0])
    if len(runs) < 2:
        raise MissingData(
            "figure=pareto needs at least two runs with a clock and gate scores: "
            "python -m sim run -m policy=lru,importance policy.alpha=0.1,0.2,0.3"
        )
    groups = [group for _, group in runs.groupby(list(GROUPS), sort=True)][:SHOWN_PANELS]
    wide = min(len(groups), 3) if columns == 2 else 1
    figure, panels = grid(-(-len(groups) // wide), wide, columns, 2.7 if len(groups) == 1 else 2.2)
    policies = unique(runs.sort_values("policy"), "policy")
    for place, panel in enumerate(panels.ravel()):
        if place >= len(groups):
            panel.set_axis_off()
            continue
        _draw_points(panel, groups[place], policies, cost[0], cost[2])
        if len(groups) > 1:
            keys = [key for key in GROUPS if runs[key].nunique() > 1]
            panel.set_title(", ".join(group_words(groups[place].iloc[0], keys)), loc="left", fontsize=7)
        panel.set_xlabel("Time per output token (ms)")
        if place % wide == 0:
            panel.set_ylabel(cost[1])
    legend_above(figure, panels.ravel()[0].get_legend_handles_labels())
    proxy = " Gate mass is a proxy for quality, not a measure of it." if cost is COSTS[1] else ""
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs) + proxy)
    return figure


def candidates(table: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The runs that can be compared: with both measures, at one capacity per set-up, neither nothing nor all of it."""
    if cost not in table or "contender" not in table:
        return table.head(0)
    inner = table[table["capacity"].between(0, 1, inclusive="neither")].dropna(subset=["tpot_s.mean", cost])
    return one_capacity(inner) if len(inner) else inner


def front(times: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other point beats: none is at most as long and as costly, and less in one of them. [n] bool."""
    at_most = (times[:, None] >= times[None, :]) & (costs[:, None] >= costs[None, :])
    less = (times[:, None] > times[None, :]) | (costs[:, None] > costs[None, :])
    return np.asarray(~(at_most & less).any(axis=1))


def _draw_points(panel: Axes, runs: pd.DataFrame, policies: Sequence[str], cost: str, scale: float) -> None:
    sees = runs["eviction"].isin(list(FUTURE))
    best = runs[~sees]
    best = best[front(numbers(best, "tpot_s.mean"), numbers(best, cost))].sort_values("tpot_s.mean")
    at, high = numbers(best, "tpot_s.mean", 1e3), numbers(best, cost, scale)
    panel.plot(at, high, color=BLACK, linewidth=0.8, drawstyle="steps-post", zorder=0.5, label="not beaten in both")
    for index, policy in enumerate(policies):
        chosen = runs[runs["policy"] == policy]
        future = bool(chosen["eviction"].isin(list(FUTURE)).all()) and len(chosen) > 0
        look = LINES[index % len(LINES)]
        panel.errorbar(
            numbers(chosen, "tpot_s.mean", 1e3), numbers(chosen, cost, scale),
            xerr=lengths_of(chosen, "tpot_s.mean", 1e3), yerr=lengths_of(chosen, cost, scale),
            color="#888888" if future else look["color"], marker=look["marker"], linestyle="none", elinewidth=0.7,
            capsize=1.2, label=policy,
        )  # fmt: skip
    _name_points(panel, best, at, high)
    panel.margins(x=0.1, y=0.12)


def _name_points(panel: Axes, best: pd.DataFrame, at: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    """What tells the points of the front apart beside their policy."""
    if len(best) > NAMED_POINTS:
        return
    for (_, run), x, y in zip(best.iterrows(), at, high, strict=True):
        words = str(run["contender"]).split(" ")[1:]
        text = ", ".join(word.split("/")[-1].removeprefix("policy.") for word in words)
        if len(text) > NAME_LETTERS:
            continue
        panel.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=5.5, color="#444444")


DRAWINGS = (
    Drawing(
        "pareto",
        "TPOT against cost in quality: lost gate mass, or perplexity",
        pareto,
        heading="Latency against quality",
        place=130,
    ),
)
