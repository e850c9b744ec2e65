"""What the gate's scores say: score by rank and reuse by rank of a trace (SMoE, Figs. 5 and 7)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sim.figures.chart_parts import AXES, legend_above, line, look_of, side_by_side
from sim.figures.drawing import TRACE, MissingData, declare
from sim.figures.style import add_footnote
from sim.figures.trace_file import describe, open_trace
from sim.statistics.bootstrap import request_interval
from traces.format.mapped import load
from traces.format.ranks import signed_ids
from traces.format.trace import Trace
from traces.statistics.routing import counted_rows, row_chunks

RANK = "Rank of the expert by gate score"
SHOWN_RANKS = 16
WINDOWS = (1, 2, 3)
"""Decode steps within which an expert comes back: SMoE's Fig. 7 has 3."""


def scores_by_rank(path: Path) -> pd.DataFrame:
    """Mean gate score of the r-th best expert, over tokens and layers, with spread over tokens.

    Columns `rank`, `score`, `score.low`, `score.high` (10th and 90th percentile over tokens and layers), `active`.

    Raises: MissingData for a trace without scores of all experts.
    """
    trace = open_trace(path)
    if trace.router_logits is None:
        raise MissingData(
            f"{path} has no router_logits: figure=score_by_rank needs a trace with scores, "
            "as python -m sim record model=MODEL writes it"
        )
    ranks = min(trace.num_experts, SHOWN_RANKS)
    scores = np.concatenate([chunk[:, :, :ranks].reshape(-1, ranks) for chunk in _sorted_scores(trace)])
    low, high = np.quantile(scores, (0.1, 0.9), axis=0)
    active = np.arange(1, ranks + 1) <= trace.top_k
    rows = {"rank": np.arange(1, ranks + 1), "score": scores.mean(axis=0), "score.low": low, "score.high": high}
    return pd.DataFrame(rows | {"active": active}).assign(**describe(trace, path))


def _sorted_scores(trace: Trace) -> list[NDArray[np.float32]]:
    """Gate scores of the counted rows, best first, chunk by chunk."""
    counted = counted_rows(trace)
    chunks = []
    for start, stop in row_chunks(0, trace.num_tokens, trace.num_layers * trace.num_experts * 4):
        scores = trace.gate_scores(start, stop)[counted[start:stop]]
        chunks.append(-np.sort(-scores, axis=-1)[:, :, :SHOWN_RANKS])
    return chunks


def reuse_by_rank(path: Path) -> pd.DataFrame:
    """How often the expert of a rank is routed to again within the next 1, 2, 3 decode steps of its request.

    Columns `rank`, `window`, `reuse`, `reuse.low`, `reuse.high` (95 % interval over requests). Over decode rows with
    enough rows after them, all layers. Raises: MissingData where ids are in no order or no request is long enough.
    """
    trace = open_trace(path)
    if not trace.ranked:
        raise MissingData(f"{path}: its ids are in no order of merit, so figure=reuse_by_rank is unknown; "
                          "python -m sim record model=MODEL records a trace whose ids are ranked")  # fmt: skip
    reused, pairs = reuse_counts(trace)
    if not pairs.any():
        raise MissingData(f"{path}: no request has {max(WINDOWS) + 1} decode rows, figure=reuse_by_rank needs them; "
                          "python -m sim record model=MODEL records longer answers")  # fmt: skip
    rows = []
    for place, window in enumerate(WINDOWS):
        for rank in range(trace.top_k):
            above, below = reused[:, place, rank], pairs[:, rank]
            low, high = request_interval(above[below > 0], below[below > 0])
            rows.append(
                {"rank": rank + 1, "window": window, "reuse": above.sum() / below.sum(), "reuse.low": low,
                 "reuse.high": high}
            )  # fmt: skip
    return pd.DataFrame(rows).assign(**describe(trace, path))


def reuse_counts(trace: Trace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(experts routed to again [R, windows, K], uses of each rank that they are out of [R, K]) per request."""
    counted, last = counted_rows(trace), max(WINDOWS)
    reused = np.zeros((trace.num_requests, len(WINDOWS), trace.top_k))
    pairs = np.zeros((trace.num_requests, trace.top_k))
    for request in range(trace.num_requests):
        start, stop = (int(bound) for bound in trace.request_offsets[request : request + 2])
        ids = signed_ids(load(trace.topk_ids[start:stop])[counted[start:stop]], trace.fewer)  # [n, L, K]
        if len(ids) <= last:
            continue
        here, again = ids[:-last], np.zeros(ids[:-last].shape, bool)
        pairs[request] = (here >= 0).sum(axis=(0, 1))
        for ahead in range(1, last + 1):
            later = ids[ahead : len(ids) - last + ahead]
            again |= (here[..., :, None] == later[..., None, :]).any(axis=-1) & (here >= 0)
            if ahead in WINDOWS:
                reused[request, WINDOWS.index(ahead)] = again.sum(axis=(0, 1))
    return reused, pairs


@declare("score_by_rank", "gate score by rank (SMoE, Fig. 5)", source=TRACE, read=scores_by_rank, place=160)
def score_by_rank(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Mean gate score by rank; the line separates the experts that are routed to from the rest."""
    figure, (panel,) = side_by_side(1, columns, 2.3)
    line(panel, table, "rank", "score", look_of(0))
    top_k = int(table["active"].sum())
    panel.axvline(top_k + 0.5, color="#777777", linewidth=0.8, linestyle="--")
    panel.annotate(f"routed to: top {top_k}", (top_k + 0.5, 0.97), xycoords=("data", "axes fraction"), fontsize=6.5,
                   xytext=(-3, 0), textcoords="offset points", ha="right", va="top")  # fmt: skip
    panel.set(xlabel=RANK, ylabel="Gate score (probability)")
    panel.set_ylim(bottom=0)
    note = f"{table['note'].iloc[0]} Points: mean over tokens and layers; bars: 10th to 90th percentile."
    first, last = (100 * float(table.loc[table["rank"] == rank, "score"].iloc[0]) for rank in (1, top_k))
    says = f"The best expert has {first:.3g} % of the gate's mass, the last that is routed to {last:.3g} %"
    later = table.loc[table["rank"] == top_k + 1, "score"]
    says += f", the first that is not {100 * float(later.iloc[0]):.3g} %." if len(later) else "."
    add_footnote(figure, note, says)
    return figure


@declare(
    "reuse_by_rank", "reuse within 1 to 3 steps by rank (SMoE, Fig. 7)", source=TRACE, read=reuse_by_rank, place=170
)
def reuse(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Probability of reuse against rank, a line per window."""
    figure, (panel,) = side_by_side(1, columns, 2.3)
    for index, (window, group) in enumerate(table.groupby("window")):
        name = "the next decode step" if window == 1 else f"the next {window} decode steps"
        line(panel, group, "rank", "reuse", look_of(index), f"within {name}")
    panel.set(xlabel=RANK, ylabel=AXES["reuse"].label)
    panel.set_xticks(sorted(set(table["rank"])))
    panel.set_ylim(bottom=0)
    legend_above(figure, panel.get_legend_handles_labels(), handlelength=3)
    longest = table[table["window"] == table["window"].max()].sort_values("rank")
    first, last = (100 * float(longest["reuse"].iloc[place]) for place in (0, -1))
    within, ranks = longest["window"].iloc[0], longest["rank"].iloc[-1]
    says = (
        f"Within {within} decode steps the best expert is routed to again in {first:.0f} % of cases, "
        f"the last of the top {ranks} in {last:.0f} %."
    )
    add_footnote(figure, f"{table['note'].iloc[0]} Bars: 95\u00a0% bootstrap over requests.", says)
    return figure
