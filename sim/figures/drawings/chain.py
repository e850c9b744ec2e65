"""The ablation chain: a policy taken from plain offloading to the whole, one part at a time (SMoE, Fig. 17)."""

from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.figures.chart_parts import FILLS, legend_above, lengths_of, numbers, side_by_side
from sim.figures.drawing import Drawing, MissingData
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.run_settings import GROUPS, group_words
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
    known = table.dropna(subset=list(ORDER)) if set(ORDER) <= set(table) else table.head(0)
    if known.empty:
        return {}
    runs = one_capacity(known.assign(parts=pd.Series([active_parts(run) for _, run in known.iterrows()], known.index)))
    members_of = {}
    for _, group in runs.groupby([*GROUPS], sort=True):
        members = longest_chain(group)
        if len(members) > 2:
            words = group_words(members.iloc[0], [key for key in GROUPS if runs[key].nunique() > 1])
            steps = [step_name(parts) for parts in members["parts"]]
            members_of[", ".join(words) or str(members["setup"].iloc[0])] = members.assign(step=steps)
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


def chain(table: pd.DataFrame, columns: int = 2) -> Figure:
    """TPOT and cache ratio along the chain, a colour per set-up; above each bar the change from the one before."""
    chains_of = chains(table)
    if not chains_of:
        raise MissingData(
            "figure=chain needs LRU offloading and SMoE's parts added one by one: "
            "python -m sim run policy=lru, then with policy/eviction=score_window, with policy/substitution=score_band "
            "and so on; scripts/studies/smoe/ablation.py prints all combinations"
        )
    figure, (times, ratios) = side_by_side(2, columns)
    for index, (name, runs) in enumerate(chains_of.items()):
        _bars(times, runs, "tpot_s.mean", 1e3, index, len(chains_of), name)
        _bars(ratios, runs, "decode.cache_ratio", 100.0, index, len(chains_of), name)
    longest = max(chains_of.values(), key=len)
    for panel, label in ((times, "Time per output token (ms)"), (ratios, "Cache ratio, decode (%)")):
        panel.set_xticks(range(len(longest)), list(longest["step"]))
        panel.set_ylabel(label)
        panel.grid(axis="x", visible=False)
        panel.tick_params(axis="x", length=0)
        panel.margins(y=0.12)
    if len(chains_of) > 1:
        legend_above(figure, times.get_legend_handles_labels())
    runs = pd.concat(chains_of.values())
    add_footnote(
        figure, footnote(runs, interval=True) + capacity_sentence(runs) + " Numbers: change from the step before."
    )
    return figure


def _bars(panel: Axes, runs: pd.DataFrame, metric: str, scale: float, index: int, of: int, name: str) -> None:
    width = 0.82 / of
    places = np.arange(len(runs)) + (index - (of - 1) / 2) * width
    values, (color, hatch) = numbers(runs, metric, scale), FILLS[index % len(FILLS)]
    lengths = lengths_of(runs, metric, scale)
    panel.bar(
        places, values, width, color=color, hatch=hatch, edgecolor="white", linewidth=0.3, label=name,
        yerr=lengths, error_kw={"elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7},
    )  # fmt: skip
    changes = np.divide(values[1:], values[:-1], out=np.full(len(values) - 1, np.nan), where=values[:-1] > 0) - 1
    for place, value, up, change in zip(places[1:], values[1:], np.nan_to_num(lengths[1][1:]), changes, strict=True):
        if of <= 3 and np.isfinite(change):
            panel.annotate(
                f"{change:+.0%}", (place, value + up), xytext=(0, 2), textcoords="offset points", ha="center",
                fontsize=5 if of > 1 else 6.5,
            )  # fmt: skip


DRAWINGS = (
    Drawing(
        "chain",
        "parts added to LRU offloading one by one (SMoE, Fig. 17)",
        chain,
        heading="Parts added one by one",
        place=80,
    ),
)
