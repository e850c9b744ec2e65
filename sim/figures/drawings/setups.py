"""Policies side by side over workloads, set-ups and batch sizes (SMoE, Figs. 12 and 13)."""

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import (
    AXES,
    BASELINE,
    grouped_bars,
    in_order,
    known,
    legend_above,
    panel_grid,
    unique,
    wrapped,
)
from sim.figures.conclusions import best, fastest
from sim.figures.drawing import MissingData, declare
from sim.figures.looks import bar_fill
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.rates import add_rates
from sim.figures.style import add_footnote
from sim.metrics.registry import decode_time

TIMES = ("tpot_s.mean", "itl_s.mean")
SHOWN_POLICIES, SHOWN_PANELS, PANELS_IN_A_ROW = 14, 12, 4


@declare(
    "tpot_by_policy",
    "TPOT by policy, workload, set-up, batch (SMoE, Fig. 12)",
    heading="Time per output token",
    place=40,
)
def tpot_by_policy(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Time per output token: a panel per set-up and batch size, a group per workload, a bar per policy.

    In batches the time of a decode step, which is what the paper calls decoding latency.
    """
    return _panels(table, decode_time(table["batch_size"]), columns, "tpot_by_policy")


@declare(
    "cache_ratio_by_policy", "cache ratio in the same arrangement (SMoE, Fig. 13)", heading="Cache ratio", place=50
)
def cache_ratio_by_policy(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Cache ratio of decode steps (resident executions over executions) in the same arrangement."""
    return _panels(table, "decode.cache_ratio", columns, "cache_ratio_by_policy")


def _panels(table: pd.DataFrame, metric: str, columns: int, name: str) -> Figure:
    runs, label = one_capacity(known(table, metric)), AXES[metric].label
    policies = shown_policies(runs, metric) if len(runs) else []
    if len(policies) < 2:
        raise MissingData(
            f"figure={name} needs at least two policies: python -m sim run -m policy=lru,importance "
            "hardware=s1_rtx3080ti,s3_a6000 batch_size=1,3"
        )
    setups, batches = unique(runs.sort_values("setup"), "setup"), sorted(unique(runs, "batch_size"))
    cells = [(batch, setup) for batch in batches for setup in setups][:SHOWN_PANELS]
    wide = min(len(setups), PANELS_IN_A_ROW) if columns == 2 else 1
    figure, panels = panel_grid(len(cells), wide, columns, 1.75 if len(cells) > wide else 2.1)
    workloads = sorted(unique(runs, "workload"))
    fills = {name: bar_fill(runs[runs["contender"] == name]) for name in policies}
    for place, (panel, (batch, setup)) in enumerate(zip(panels, cells, strict=True)):
        chosen = runs[(runs["batch_size"] == batch) & (runs["setup"] == setup)]
        grouped_bars(panel, chosen, "workload", "contender", metric, fills, workloads)
        panel.set_title(wrapped(f"{setup}, batch\u00a0{batch}", 34 if wide < 3 else 22), loc="left", fontsize=7)
        if metric in TIMES:
            add_rates(panel, chosen, metric, named=place % wide == wide - 1 or place == len(cells) - 1)
        if place % wide == 0:
            panel.set_ylabel(label if len(label) < 20 else label.replace(" (", "\n("))
    left_out = len(setups) * len(batches) - len(cells), runs["contender"].nunique() - len(policies)
    title = ", ".join(f"{count} {word} left out" for count, word in zip(left_out, ("set-ups", "policies"), strict=True)
                      if count)  # fmt: skip
    legend_above(figure, panels[0].get_legend_handles_labels(), title=title)
    says = fastest(runs, metric) if metric != "decode.cache_ratio" else best(
        runs, metric, "executes most from the cache in decode steps", "more than"
    )  # fmt: skip
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs), says)
    return figure


def shown_policies(runs: pd.DataFrame, metric: str) -> list[str]:
    """The contenders in the order of their mean, or as asked for; at most as many as can be told apart, the first."""
    if "order" in runs:
        return [str(name) for name in in_order(runs, "contender")[:SHOWN_POLICIES]]
    means = runs.groupby("contender")[metric].mean().sort_values(ascending=metric in TIMES, kind="stable")
    needed = set(runs.loc[runs["bound"] | (runs["policy"] == BASELINE), "contender"])
    first = [*filter(needed.__contains__, means.index), *(name for name in means.index if name not in needed)]
    return [str(name) for name in means.index if name in first[:SHOWN_POLICIES]]
