"""Policies side by side over workloads, set-ups and batch sizes (SMoE, Figs. 12 and 13)."""

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.missing import MissingData
from sim.figures.notes import footnote
from sim.figures.parts import grid, grouped_bars, legend_above, pretty, unique
from sim.plot_style import add_footnote

SHOWN_POLICIES, USUAL_CAPACITY = 14, 0.25


def tpot_by_policy(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Time per output token: a panel per set-up and batch size, a group per workload, a bar per policy."""
    return _panels(table, "tpot_s.mean", 1e3, "Time per output token (ms)", columns, "tpot_by_policy")


def cache_ratio_by_policy(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Cache ratio of decode steps (resident executions over executions) in the same arrangement."""
    return _panels(table, "decode.cache_ratio", 100.0, "Cache ratio, decode (%)", columns, "cache_ratio_by_policy")


def one_capacity(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of each set-up at the capacity that most of its contenders share.

    Of several the one nearest to a quarter of the experts, where `python -m sim run` has its default.

    A contender that has only one capacity, such as `all_resident`, keeps it.
    """
    kept: list[pd.DataFrame] = []
    for _, group in table.groupby("setup", sort=False):
        counts = group.groupby("capacity")["contender"].nunique()
        common = min(counts.index[counts == counts.max()], key=lambda share: abs(float(share) - USUAL_CAPACITY))
        alone = group.groupby("contender")["capacity"].transform("nunique") == 1
        kept.append(group[(group["capacity"] == common) | alone])
    return pd.concat(kept) if kept else table


def said_capacity(table: pd.DataFrame) -> str:
    """The capacities of the set-ups as a sentence."""
    parts = []
    for setup, group in table.groupby("setup", sort=False):
        shares = group["capacity"]
        inner = shares[(shares > 0) & (shares < 1)]
        if len(inner):
            parts.append(f"{inner.mode().iloc[0]:.3g} of the experts on {setup}")
    return f" Capacity: {'; '.join(parts)}." if parts else ""


def _panels(table: pd.DataFrame, metric: str, scale: float, label: str, columns: int, name: str) -> Figure:
    runs = one_capacity(table.dropna(subset=[metric])) if metric in table else table.head(0)
    policies = unique(runs.sort_values("contender"), "contender")[:SHOWN_POLICIES]
    if len(policies) < 2:
        raise MissingData(
            f"figure={name} needs at least two policies: python -m sim run -m policy=lru,importance "
            "hardware=s1_rtx3080ti,s3_a6000 batch_size=1,3"
        )
    setups, batches = unique(runs.sort_values("setup"), "setup"), sorted(unique(runs, "batch_size"))
    shape = (len(batches), len(setups)) if columns == 2 else (len(batches) * len(setups), 1)
    figure, panels = grid(*shape, columns, 1.75)
    workloads = sorted(unique(runs, "workload"))
    for place, (batch, setup) in enumerate((batch, setup) for batch in batches for setup in setups):
        panel = panels.ravel()[place]
        chosen = runs[(runs["batch_size"] == batch) & (runs["setup"] == setup)]
        grouped_bars(panel, chosen, "workload", "contender", metric, scale, policies, workloads)
        panel.set_title(f"{pretty(setup)}, batch {batch}", loc="left", fontsize=7)
        if columns == 1 or place % len(setups) == 0:
            panel.set_ylabel(label if len(label) < 20 else label.replace(" (", "\n("))
    legend_above(figure, panels.ravel()[0].get_legend_handles_labels())
    add_footnote(figure, footnote(runs, interval=True) + said_capacity(runs))
    return figure
