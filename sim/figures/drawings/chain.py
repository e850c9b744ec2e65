"""The ablation chain: a policy taken from plain offloading to the whole, one part at a time (SMoE, Fig. 17)."""

from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.figures.chart_parts import bars, known, legend_above, lengths_of, metric_panels, name_places, numbers
from sim.figures.drawing import MissingData, declare
from sim.figures.looks import place_fill
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.run_settings import GROUPS, place_names
from sim.figures.style import add_footnote

ORDER = ("eviction", "substitution", "prefetch", "assignment")
"""The parts in the order in which the paper adds them to LRU offloading."""
CHAIN = [ORDER[:count] for count in range(len(ORDER) + 1)]
PLAIN = {"eviction": ("lru",), "substitution": ("none",), "prefetch": ("none",), "assignment": ("link_only",)}
WORDS = {"eviction": "eviction", "substitution": "router", "prefetch": "prefetch", "assignment": "CPU"}


def active_parts(run: Any) -> tuple[str, ...]:
    """The parts in which a run departs from LRU offloading, in the chain's order."""
    return tuple(part for part in ORDER if run[part] not in PLAIN[part])


def chains(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Runs by set-up and batch, in chain order, each with one part more than the one before; column `step`."""
    told = known(table, *ORDER)
    if told.empty:
        return {}
    runs = one_capacity(told.assign(parts=pd.Series([active_parts(run) for _, run in told.iterrows()], told.index)))
    runs = runs.assign(place=place_names(runs))
    members_of = {}
    for _, group in runs.groupby([*GROUPS], sort=True):
        members = longest_chain(group)
        if len(members) > 2:
            first = members.iloc[0]
            steps = [step_name(parts) for parts in members["parts"]]
            members_of[first["place"] or str(first["setup"])] = members.assign(step=steps)
    return members_of


def longest_chain(group: pd.DataFrame) -> pd.DataFrame:
    """The longest chain that ends in one of these runs: every member has that run's rules in its parts."""
    chains = [group.head(0)]
    for _, whole in group.iterrows():
        allowed = [group[part].isin([whole[part], *PLAIN[part]]) for part in ORDER]
        members = group[pd.concat(allowed, axis=1).all(axis=1)]
        steps = list(takewhile(set(members["parts"]).__contains__, CHAIN))
        if steps and steps[-1] == whole["parts"]:
            chains.append(pd.concat([members[members["parts"] == parts].head(1) for parts in steps]))
    return max(chains, key=len)


def step_name(parts: tuple[str, ...]) -> str:
    """What a step of the chain adds."""
    return f"+{WORDS[parts[-1]]}" if parts else "LRU"


@declare(
    "chain", "parts added to LRU offloading one by one (SMoE, Fig. 17)", heading="Parts added one by one", place=80
)
def chain(table: pd.DataFrame, columns: int = 2) -> Figure:
    """TPOT and cache ratio along the chain, a colour per set-up; above each bar the change from the one before."""
    chains_of = chains(table)
    if not chains_of:
        raise MissingData(
            "figure=chain needs LRU offloading and SMoE's parts added one by one: "
            "python -m sim run policy=lru, then with policy/eviction=score_window, with policy/substitution=score_band "
            "and so on; scripts/studies/smoe/ablation.py prints all combinations"
        )
    figure, panels = metric_panels(columns, "tpot_s.mean", "decode.cache_ratio")
    longest = max(chains_of.values(), key=len)
    for metric, panel in panels.items():
        for index, (name, runs) in enumerate(chains_of.items()):
            _bars(panel, runs, metric, index, len(chains_of), name)
        name_places(panel, list(longest["step"]))
        panel.margins(y=0.12)
    if len(chains_of) > 1:
        legend_above(figure, panels["tpot_s.mean"].get_legend_handles_labels())
    runs = pd.concat(chains_of.values())
    note = footnote(runs, interval=True) + capacity_sentence(runs) + " Numbers: change from the step before."
    add_footnote(figure, note, gained(chains_of))
    return figure


def gained(chains_of: dict[str, pd.DataFrame]) -> str:
    """By how much the whole chain shortens a token, and which step does most of it."""
    longest = max(chains_of.values(), key=len)
    times = longest["tpot_s.mean"].to_numpy(np.float64)
    step = int(np.argmin(np.diff(times))) + 1
    return (
        f"All parts together take {100 * (1 - times[-1] / times[0]):.0f} % off the time per token of LRU offloading; "
        f"most of it comes with {longest['step'].iloc[step]}."
    )


def _bars(panel: Axes, runs: pd.DataFrame, metric: str, index: int, of: int, name: str) -> None:
    places = bars(panel, runs, metric, index, of, name, place_fill(index), capsize=1.5)
    values, lengths = numbers(runs, metric), lengths_of(runs, metric)
    changes = np.divide(values[1:], values[:-1], out=np.full(len(values) - 1, np.nan), where=values[:-1] > 0) - 1
    for place, value, up, change in zip(places[1:], values[1:], np.nan_to_num(lengths[1][1:]), changes, strict=True):
        if of <= 3 and np.isfinite(change):
            panel.annotate(
                f"{100 * change:+.0f} %", (place, value + up), xytext=(0, 2), textcoords="offset points", ha="center",
                fontsize=5 if of > 1 else 6.5,
            )  # fmt: skip
