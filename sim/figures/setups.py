"""Policies side by side over workloads, set-ups and batch sizes (SMoE, Figs. 12 and 13)."""

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.missing import MissingData
from sim.figures.notes import footnote
from sim.figures.parts import grid, grouped_bars, legend_above, unique, wrapped
from sim.figures.style import add_footnote

SHOWN_POLICIES, SHOWN_PANELS, PANELS_IN_A_ROW, USUAL_CAPACITY = 14, 12, 4, 0.25


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
    """The capacities of the set-ups as a sentence; one where they are all the same."""
    shares = {}
    for setup, group in table.groupby("setup", sort=False):
        inner = group.loc[group["capacity"].between(0, 1, inclusive="neither"), "capacity"]
        if len(inner):
            shares[str(setup)] = f"{100 * inner.mode().iloc[0]:.3g} % of the experts"
    if len(set(shares.values())) == 1:
        return f" Capacity: {next(iter(shares.values()))}."
    return f" Capacity: {'; '.join(f'{share} on {setup}' for setup, share in shares.items())}." if shares else ""


def _panels(table: pd.DataFrame, metric: str, scale: float, label: str, columns: int, name: str) -> Figure:
    runs = one_capacity(table.dropna(subset=[metric])) if metric in table else table.head(0)
    policies = unique(runs.sort_values("contender"), "contender")[:SHOWN_POLICIES]
    if len(policies) < 2:
        raise MissingData(
            f"figure={name} needs at least two policies: python -m sim run -m policy=lru,importance "
            "hardware=s1_rtx3080ti,s3_a6000 batch_size=1,3"
        )
    setups, batches = unique(runs.sort_values("setup"), "setup"), sorted(unique(runs, "batch_size"))
    cells = [(batch, setup) for batch in batches for setup in setups][:SHOWN_PANELS]
    wide = min(len(setups), PANELS_IN_A_ROW) if columns == 2 else 1
    figure, panels = grid(-(-len(cells) // wide), wide, columns, 1.75)
    workloads = sorted(unique(runs, "workload"))
    for place, panel in enumerate(panels.ravel()):
        if place >= len(cells):
            panel.set_axis_off()
            continue
        batch, setup = cells[place]
        chosen = runs[(runs["batch_size"] == batch) & (runs["setup"] == setup)]
        grouped_bars(panel, chosen, "workload", "contender", metric, scale, policies, workloads)
        panel.set_title(wrapped(f"{setup}, batch\u00a0{batch}", 34 if wide < 3 else 22), loc="left", fontsize=7)
        if place % wide == 0:
            panel.set_ylabel(label if len(label) < 20 else label.replace(" (", "\n("))
    legend_above(figure, panels.ravel()[0].get_legend_handles_labels())
    left_out = len(setups) * len(batches) - len(cells)
    note = f" {left_out} more set-ups are not shown." if left_out else ""
    add_footnote(figure, footnote(runs, interval=True) + said_capacity(runs) + note)
    return figure
