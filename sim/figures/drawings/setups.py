"""Policies side by side over workloads, set-ups and batch sizes (SMoE, Figs. 12 and 13)."""

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import AXES, grouped_bars, known, legend_above, panel_grid, unique, wrapped
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.style import add_footnote
from sim.metrics.registry import decode_time

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
    policies = unique(runs.sort_values("contender"), "contender")[:SHOWN_POLICIES]
    if len(policies) < 2:
        raise MissingData(
            f"figure={name} needs at least two policies: python -m sim run -m policy=lru,importance "
            "hardware=s1_rtx3080ti,s3_a6000 batch_size=1,3"
        )
    setups, batches = unique(runs.sort_values("setup"), "setup"), sorted(unique(runs, "batch_size"))
    cells = [(batch, setup) for batch in batches for setup in setups][:SHOWN_PANELS]
    wide = min(len(setups), PANELS_IN_A_ROW) if columns == 2 else 1
    figure, panels = panel_grid(len(cells), wide, columns, 1.75)
    workloads = sorted(unique(runs, "workload"))
    for place, (panel, (batch, setup)) in enumerate(zip(panels, cells, strict=True)):
        chosen = runs[(runs["batch_size"] == batch) & (runs["setup"] == setup)]
        grouped_bars(panel, chosen, "workload", "contender", metric, policies, workloads)
        panel.set_title(wrapped(f"{setup}, batch\u00a0{batch}", 34 if wide < 3 else 22), loc="left", fontsize=7)
        if place % wide == 0:
            panel.set_ylabel(label if len(label) < 20 else label.replace(" (", "\n("))
    legend_above(figure, panels[0].get_legend_handles_labels())
    left_out = len(setups) * len(batches) - len(cells)
    note = f" {left_out} more set-ups are not shown." if left_out else ""
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs) + note)
    return figure
