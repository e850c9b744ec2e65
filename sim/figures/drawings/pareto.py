"""Latency against what it costs in quality: every run a point, the ones that nothing beats joined."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sim.figures.chart_parts import AXES, in_order, legend_above, lengths_of, numbers, panel_grid
from sim.figures.drawing import MissingData, declare
from sim.figures.looks import line_look
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.rates import add_rates
from sim.figures.run_settings import GROUPS, place_names
from sim.figures.style import BLACK, add_footnote
from sim.formatting import shortlist

COSTS = ("quality.perplexity_ratio", "decode.lost_gate_mass")
"""Measures of quality, the best first. Gate mass is a proxy, perplexity was measured."""
SHOWN_PANELS, NAMED_POINTS, NAME_LETTERS, NAMED = 6, 8, 24, 4


@declare(
    "pareto",
    "TPOT against cost in quality: lost gate mass, or perplexity",
    heading="Latency against quality",
    place=130,
)
def pareto(table: pd.DataFrame, columns: int = 2) -> Figure:
    """TPOT and cost in quality of every run, a panel per set-up, workload and batch size.

    The line joins the runs that no other beats in both; rules that see the future are grey and beat nobody.

    Raises: MissingData for fewer than two runs with both.
    """
    cost = next((name for name in COSTS if np.isfinite(numbers(table, name)).any()), COSTS[-1])
    runs = candidates(table, cost)
    if len(runs) < 2:
        raise MissingData(
            "figure=pareto needs at least two runs with a clock and gate scores: "
            "python -m sim run -m policy=lru,importance policy.alpha=0.1,0.2,0.3"
        )
    runs = runs.assign(place=place_names(runs))
    groups = [group for _, group in runs.groupby(list(GROUPS), sort=True)][:SHOWN_PANELS]
    wide = min(len(groups), 3) if columns == 2 else 1
    figure, panels = panel_grid(len(groups), wide, columns, 2.7 if len(groups) == 1 else 2.2)
    policies = in_order(runs, "policy")
    for place, (panel, group) in enumerate(zip(panels, groups, strict=True)):
        _draw_points(panel, group, policies, cost)
        if len(groups) > 1:
            panel.set_title(group["place"].iloc[0], loc="left", fontsize=7)
        panel.set_xlabel(AXES["tpot_s.mean"].label)
        add_rates(panel, group, "tpot_s.mean", across=True, named=place < wide)
        if place % wide == 0:
            panel.set_ylabel(AXES[cost].label)
    left_out = runs.groupby(list(GROUPS)).ngroups - len(groups)
    title = f"{left_out} more set-ups are left out" if left_out else ""
    handles = {
        name: handle for panel in panels for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    legend_above(figure, (list(handles.values()), list(handles)), title=title)
    proxy = " Gate mass is a proxy for quality, not a measure of it." if cost == COSTS[1] else ""
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs) + proxy, unbeaten(runs, cost))
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


def on_front(runs: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The runs of one panel that no other beats in both measures, bounds aside, the fastest first."""
    live = runs[~runs["bound"].astype(bool)]
    return live[front(numbers(live, "tpot_s.mean", 1.0), numbers(live, cost, 1.0))].sort_values("tpot_s.mean")


def unbeaten(runs: pd.DataFrame, cost: str) -> str:
    """Which policies no other beats in both measures."""
    names = [
        str(name) for _, group in runs.groupby(list(GROUPS), sort=True) for name in on_front(group, cost)["contender"]
    ]
    several = runs["contender"].nunique() > 1
    return f"Not beaten in both time and quality: {shortlist(list(dict.fromkeys(names)), NAMED)}." if several else ""


def _draw_points(panel: Axes, runs: pd.DataFrame, policies: Sequence[str], cost: str) -> None:
    best = on_front(runs, cost)
    at, high = numbers(best, "tpot_s.mean"), numbers(best, cost)
    panel.plot(at, high, color=BLACK, linewidth=0.8, drawstyle="steps-post", zorder=0.5, label="not beaten in both")
    for policy in policies:
        chosen = runs[runs["policy"] == policy]
        if chosen.empty:
            continue
        look = line_look(chosen) | {"linestyle": "none", "fillstyle": "full"}
        panel.errorbar(
            numbers(chosen, "tpot_s.mean"), numbers(chosen, cost), xerr=lengths_of(chosen, "tpot_s.mean"),
            yerr=lengths_of(chosen, cost), **look, elinewidth=0.7, capsize=1.2, label=policy,
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
