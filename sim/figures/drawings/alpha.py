"""Time per token against alpha, the width of the score bands (SMoE, Fig. 11), and what it costs in gate mass."""

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import known, legend_above, line, look_of, metric_panels
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.rates import add_rates
from sim.figures.style import add_footnote


@declare("alpha", "TPOT and lost gate mass against alpha (SMoE, Fig. 11)", heading="Width of the score bands", place=60)
def alpha(table: pd.DataFrame, columns: int = 2) -> Figure:
    """TPOT and gate mass not executed as routed against alpha, a line per set-up, batch size and contender."""
    runs = known(table, "alpha")
    if runs.empty or runs["alpha"].nunique() < 2:
        raise MissingData(
            "figure=alpha needs runs that differ in policy.alpha: "
            "python -m sim run -m policy=importance policy.alpha=0,0.1,0.2,0.3,0.4,0.5,0.6"
        )
    figure, panels = metric_panels(columns, "tpot_s.mean", "decode.lost_gate_mass")
    for metric, panel in panels.items():
        for index, (name, group) in enumerate(line_groups(runs).items()):
            line(panel, group, "alpha", metric, look_of(index), name)
        panel.set_xlabel("alpha, half width of the score bands")
        panel.set_ylim(bottom=0)
    add_rates(panels["tpot_s.mean"], runs, "tpot_s.mean")
    legend_above(figure, panels["tpot_s.mean"].get_legend_handles_labels(), handlelength=3)
    times = runs.sort_values("tpot_s.mean")
    says = f"The shortest time per token is at alpha {times['alpha'].iloc[0]:g}; the lost gate mass rises with alpha."
    add_footnote(figure, footnote(runs, interval=True), says if rises(runs) else "")
    return figure


def rises(runs: pd.DataFrame) -> bool:
    """Whether every line loses more gate mass where alpha is larger."""
    lines = (group.sort_values("alpha")["decode.lost_gate_mass"] for group in line_groups(runs).values())
    return all(bool(line.is_monotonic_increasing) for line in lines)


def line_groups(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Runs by what does not change along a line: contender without its alpha, set-up, workload, batch, capacity."""
    bare = [" ".join(w for w in str(name).split(" ") if not w.startswith(("policy.alpha=", "alpha="))) for name in
            runs["contender"]]  # fmt: skip
    named = runs.assign(bare=bare)
    keys = [key for key in ("bare", "setup", "workload", "batch_size", "capacity") if named[key].nunique() > 1]
    if not keys:
        return {f"{bare[0]}, {runs['setup'].iloc[0]}": runs}
    return {_name(keys, group): group for _, group in named.groupby(keys, sort=True)}


def _name(keys: list[str], group: pd.DataFrame) -> str:
    first = group.iloc[0]
    words = {"batch_size": f"batch {first['batch_size']}", "capacity": f"capacity {100 * first['capacity']:.3g} %"}
    return ", ".join(words.get(key, str(first[key])) for key in keys)
