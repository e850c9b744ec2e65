"""How long a prompt takes: time to first token over its length, by the order in which its experts come."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from sim.figures.chart_parts import AXES, legend_above, line, look_of, plain_ticks, side_by_side
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.style import add_footnote
from sim.results.json_files import read_json

ORDERS = {
    "token": "by token",
    "chunk": "by chunks of {}",
    "expert": "by expert",
    "bypass": "by expert past the cache",
    "stream": "by layer, streamed",
}
"""`prefill.order` -> what a line is called, in the order of the legend."""
AS_SOON = 1.005
"""Times as long that are told apart in print."""
MOST_PANELS = 4
LEAST_LENGTHS = 2


@declare(
    "long_prompt",
    "TTFT over the length of a prompt, by the order in which its experts come",
    heading="Long prompts",
    place=74,
)
def long_prompt(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Time to first token against the prompt's tokens, a panel per policy and a line per order, both axes logarithmic.

    Raises: MissingData where the runs have fewer than two lengths of prompt (`session.prompt_rows`).
    """
    told = [config_of(Path(str(folder))) for folder in table["folder"]]
    runs = table.assign(
        tokens=pd.Series([(one.get("session") or {}).get("prompt_rows") for one in told], table.index, float),
        order_of=pd.Series([order(one) for one in told], table.index, object),
    )
    runs = one_capacity(runs.dropna(subset=["tokens", "ttft_s.mean"]) if "ttft_s.mean" in runs else runs.head(0))
    if runs.empty or runs["tokens"].nunique() < LEAST_LENGTHS:
        raise MissingData(
            "figure=long_prompt needs runs of two lengths of prompt at least: "
            "python -m sim run -m +experiment=long_prompt"
        )
    names = sorted(set(runs["policy"].map(str)))[:MOST_PANELS]
    figure, panels = side_by_side(len(names), columns, 2.6)
    labels = sorted(set(runs["order_of"]))
    for panel, name in zip(panels, names, strict=True):
        for place, label in enumerate(labels):
            chosen = runs[(runs["policy"] == name) & (runs["order_of"] == label)]
            if len(chosen):
                line(panel, chosen.drop_duplicates("tokens"), "tokens", "ttft_s.mean", look_of(place), label[-1])
        panel.set(xscale="log", yscale="log", title=name, xlabel="Tokens of the prompt")
        panel.set_xticks(sorted(set(runs["tokens"])))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.minorticks_off()
        for axis in (panel.xaxis, panel.yaxis):
            plain_ticks(axis)
    panels[0].set_ylabel(AXES["ttft_s.mean"].label)
    legend_above(figure, panels[0].get_legend_handles_labels(), handlelength=3)
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs), _conclusion(runs, names[0]))
    return figure


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration of a run; empty where its folder does not say."""
    found = read_json(folder / "provenance.json").get("config")
    return found if isinstance(found, dict) else {}


def order(config: dict[str, Any]) -> tuple[int, int, str]:
    """(place in the legend, tokens of a chunk, name) of the order in which a run's prompts got their experts."""
    chunk = config.get("prefill_chunk")
    said = (config.get("prefill") or {}).get("order")
    if said is None:
        said = "expert" if chunk is None else "token" if chunk == 1 else "chunk"
    return list(ORDERS).index(said), int(chunk or 0) if said == "chunk" else 0, ORDERS[said].format(chunk)


def _conclusion(runs: pd.DataFrame, name: str) -> str:
    """How many times as long the longest prompt takes as in the order that is fastest there."""
    longest = runs[(runs["policy"] == name) & (runs["tokens"] == runs["tokens"].max())].sort_values("ttft_s.mean")
    if longest["order_of"].nunique() < 2 or not longest["ttft_s.mean"].iloc[0]:
        return ""
    times = longest["ttft_s.mean"] / longest["ttft_s.mean"].iloc[0]
    alike = times < AS_SOON
    soonest, later = longest["order_of"][alike].map(itemgetter(-1)), longest["order_of"][~alike].map(itemgetter(-1))
    said = [f"{time:.3g} times as long {label}" for time, label in zip(times[~alike], later, strict=True)]
    where = f"At {longest['tokens'].iloc[0]:.0f} tokens under {name}"
    first = f"{where} the first token comes soonest {' and '.join(soonest)}"
    return f"{first}; it takes {', '.join(said)}." if said else f"{first}."
