"""How a trace routes: which experts are used how much, and what caches of every size would hit."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import legend_above, side_by_side
from sim.figures.conclusions import span
from sim.figures.drawing import TRACE, declare
from sim.figures.style import BLUE, GREEN, VERMILLION, add_footnote
from sim.figures.trace_file import describe, open_trace
from traces.format.trace import DECODE
from traces.statistics.miss_curve import lru_miss_curve
from traces.statistics.routing import expert_uses, popularity


def expert_shares(path: Path) -> pd.DataFrame:
    """Share of a layer's uses that goes to each expert: columns `layer`, `expert`, `share`, `place` (1 = most used)."""
    trace = open_trace(path)
    uses = expert_uses(trace)
    shares = uses / uses.sum(axis=1, keepdims=True)
    layer, expert = np.indices(shares.shape).reshape(2, -1)
    place = 1 + np.argsort(np.argsort(-shares, axis=1, kind="stable"), axis=1)
    table = pd.DataFrame({"layer": layer, "expert": expert, "share": shares.ravel(), "place": place.ravel()})
    return table.assign(**describe(trace, path))


def locality_by_layer(path: Path) -> pd.DataFrame:
    """Per layer: `entropy` of use (1 if uniform), `top_quarter` share of uses, and `hits` of LRU by capacity.

    A row per layer and capacity (`capacity`: slots over experts); hits over decode steps, or all where there is none.
    """
    trace = open_trace(path)
    curve, use = lru_miss_curve(trace), popularity(trace)
    phase = DECODE if (trace.phase == DECODE).any() else 0
    slots = np.arange(1, trace.num_experts + 1)
    rows = [
        pd.DataFrame(
            {
                "layer": layer,
                "capacity": slots / trace.num_experts,
                "hits": curve.hits[phase, layer, 1:] / max(1, int(curve.demands[phase, layer])),
                "demands": int(curve.demands[phase, layer]),
                "entropy": use.entropy[layer],
                "top_quarter": use.top_quarter_share[layer],
            }
        )
        for layer in range(trace.num_layers)
    ]
    return pd.concat(rows, ignore_index=True).assign(**describe(trace, path))


@declare("routing", "heat map of the use of every expert", source=TRACE, read=expert_shares, place=180)
def routing(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Heat map of use: experts of each layer, in their own order and sorted by use."""
    figure, (own, ordered) = side_by_side(2, columns, 2.2)
    even = 1 / table["expert"].nunique()
    top = float(table["share"].max()) / even
    for panel, across, label in ((own, "expert", "Expert"), (ordered, "place", "Experts by use, most used first")):
        shares = table.pivot(index="layer", columns=across, values="share").to_numpy() / even
        image = panel.imshow(shares, aspect="auto", cmap="cividis", vmin=0, vmax=top, interpolation="nearest")
        panel.set(xlabel=label, ylabel="MoE layer")
        panel.grid(visible=False)
        panel.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=[own, ordered], label="Use over even use", pad=0.02)
    quarter = table[table["place"] <= -(-table["expert"].nunique() // 4)].groupby("layer")["share"].sum()
    says = (
        f"The most used quarter of a layer's experts takes {span(100 * quarter)} % of its uses, "
        f"the most used expert of all {float(table['share'].max()) / even:.1f} times its even part."
    )
    add_footnote(figure, str(table["note"].iloc[0]), says)
    return figure


@declare("locality", "LRU hits at every capacity, evenness by layer", source=TRACE, read=locality_by_layer, place=190)
def locality(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Hit rate of LRU at every capacity with the spread over layers, and how unevenly each layer uses its experts."""
    figure, (hits, use) = side_by_side(2, columns)
    spread = table.groupby("capacity")["hits"].agg(["min", "max"])
    weights = table.assign(weighted=table["hits"] * table["demands"]).groupby("capacity")[["weighted", "demands"]].sum()
    at = spread.index.to_numpy(dtype=np.float64) * 100
    hits.fill_between(at, 100 * spread["min"], 100 * spread["max"], color="#CCDDEE", label="range over layers")
    hits.plot(at, 100 * weights["weighted"] / weights["demands"], color=BLUE, label="all layers")
    hits.plot([0, 100], [0, 100], color="#777777", linewidth=0.8, linestyle="--", label="uniform routing")
    hits.set(xlabel="Cache capacity (% of the experts)", ylabel="Hit rate of LRU (%)", xlim=(0, 100), ylim=(0, 102))
    layers = table.drop_duplicates("layer")
    use.plot(layers["layer"], layers["entropy"], color=GREEN, marker="^", linestyle="-.", label="entropy (1: even use)")
    use.plot(
        layers["layer"], layers["top_quarter"], color=VERMILLION, marker="s", linestyle="--",
        label="uses that go to the top quarter",
    )  # fmt: skip
    use.set(xlabel="MoE layer", ylabel="Share", ylim=(0, 1.05))
    use.xaxis.get_major_locator().set_params(integer=True)
    (left, words), (right, more) = hits.get_legend_handles_labels(), use.get_legend_handles_labels()
    legend_above(figure, ([*left, *right], [*words, *more]))
    quarter = int(np.argmin(np.abs(at - 25)))
    hit = 100 * float((weights["weighted"] / weights["demands"]).iloc[quarter])
    says = f"LRU with {at[quarter]:.3g} % of the experts hits {hit:.0f} %; were routing even, {at[quarter]:.0f} %."
    note = f"{table['note'].iloc[0]} Cold start, a prompt's prefill is one step; exact for every capacity."
    add_footnote(figure, note, says)
    return figure
