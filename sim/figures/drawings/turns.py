"""What the next turn of a chat costs: time to first token over the turn, by what is kept between turns."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sim.figures.chart_parts import AXES, legend_above, line, look_of, side_by_side
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.style import add_footnote
from sim.results.json_files import read_json
from sim.results.parquet_files import read_numbers
from sim.statistics.bootstrap import request_interval

KEPT = {
    "all": "KV cache and experts kept",
    "kv": "experts lost",
    "experts": "KV cache lost",
    "none": "both lost",
}
"""What is kept between turns -> what a line is called, in the order of the legend."""
WAYS = {"bypass": ", prompts past the cache", "stream": ", prompts streamed past the cache"}
MOST_PANELS = 4
LEAST_CHATS = 2


@declare("turns", "TTFT over the turn of a chat, by what is kept between turns", heading="Turns of a chat", place=72)
def turns(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Mean time to first token of every turn, a panel per policy and a line per kept state; bars over chats.

    Raises: MissingData where no run tells the turns of chats apart, or none has a second turn with a TTFT.
    """
    rows = pd.DataFrame([row for run in one_capacity(table).to_dict("records") for row in by_turn(run)])
    if rows.empty or rows["turn"].max() < 2:
        raise MissingData(
            "figure=turns needs runs whose requests are turns of chats, with prompts: "
            "python -m sim run -m +experiment=chat"
        )
    names = sorted(set(rows["name"]))[:MOST_PANELS]
    figure, panels = side_by_side(len(names), columns)
    for panel, name in zip(panels, names, strict=True):
        for place, (kept, label) in enumerate(KEPT.items()):
            chosen = rows[(rows["name"] == name) & (rows["keep"] == kept)]
            if len(chosen):
                line(panel, chosen, "turn", "ttft_s.mean", look_of(place), label)
        panel.set_title(name)
        panel.set_xlabel("Turn of the chat")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel(AXES["ttft_s.mean"].label)
    legend_above(figure, panels[0].get_legend_handles_labels(), handlelength=3)
    told = table[table["folder"].isin(rows["folder"])]
    counts = " or ".join(map(str, sorted(set(rows["chats"]))))
    bars = f" Bars: 95\u00a0% bootstrap over {counts} chats."
    add_footnote(figure, footnote(told, interval=False) + bars + capacity_sentence(told), _conclusion(rows))
    return figure


def by_turn(run: Mapping[Hashable, Any]) -> list[dict[str, Any]]:
    """Mean TTFT of every turn of a run with its 95 % interval over chats; none where turns are not told apart."""
    folder = Path(str(run["folder"]))
    config = read_json(folder / "provenance.json").get("config") or {}
    session, order = config.get("session") or {}, (config.get("prefill") or {}).get("order")
    requests = read_numbers(folder / "requests.parquet")
    if "turn" not in requests or "ttft_s" not in requests or session.get("keep") not in KEPT:
        return []
    found = []
    for turn, chosen in requests.dropna(subset=["ttft_s"]).groupby("turn"):
        times = chosen["ttft_s"].to_numpy(np.float64)
        low, high = request_interval(times, np.ones(times.size)) if times.size >= LEAST_CHATS else (np.nan, np.nan)
        named = {"folder": run["folder"], "name": f"{run['policy']}{WAYS.get(str(order), '')}", "keep": session["keep"]}
        named |= {"turn": int(str(turn)) + 1, "chats": times.size, "bound": bool(run["bound"])}
        found.append(named | {"ttft_s.mean": times.mean(), "ttft_s.low": low, "ttft_s.high": high})
    return found


def _conclusion(rows: pd.DataFrame) -> str:
    """How much longer the last turn takes without what was kept."""
    first = rows[rows["name"] == min(zip(rows["bound"], rows["name"], strict=True))[1]]
    last = first[first["turn"] == first["turn"].max()].set_index("keep")["ttft_s.mean"]
    if "all" not in last or len(last) < 2 or not last["all"]:
        return ""
    lost = [kept for kept in KEPT if kept != "all" and kept in last]
    said = [f"{last[kept] / last['all']:.2f} with {KEPT[kept]}" for kept in lost]
    turn, name = int(first["turn"].max()), first["name"].iloc[0]
    return f"TTFT of turn {turn} under {name}, as a multiple of that with both kept: {', '.join(said)}."
