"""Some requests of a trace, chosen by what they are labelled with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import ScoreTable, Trace

ROWS = ("topk_ids", "phase", "topk_weights", "token_ids")
TABLES = ("router_logits", "selection_scores", "lookahead_before", "lookahead_after")


def with_labels(trace: Trace, labels: tuple[str, ...]) -> Trace:
    """The requests that carry one of `labels`, in their order; their rows are copied into memory.

    The content hash names the labels. Raises: UserError for a trace without labels, or a label that no request carries.
    """
    known = trace.request_labels
    if known is None:
        raise UserError(f"trace.labels=[{','.join(labels)}]: the requests of this trace carry no labels")
    for label in labels:
        if label not in known:
            raise UserError(f"trace.labels: no request is labelled {label}; known are {', '.join(sorted(set(known)))}")
    chosen = np.flatnonzero(np.isin(np.array(known), np.array(labels))).tolist()
    if len(chosen) == len(known):
        return trace
    starts, stops = trace.request_offsets[:-1][chosen], trace.request_offsets[1:][chosen]
    rows = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
    changed: dict[str, Any] = {name: _taken(getattr(trace, name), rows) for name in ROWS}
    changed |= {name: _table(getattr(trace, name), rows) for name in TABLES}
    return replace(
        trace,
        **changed,
        request_offsets=np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64),
        prompt_len=np.ascontiguousarray(trace.prompt_len[chosen]),
        request_labels=tuple(known[i] for i in chosen),
        provenance=_renumbered(trace.provenance, chosen),
        content_hash=f"{trace.content_hash}/labels[{','.join(sorted(labels))}]",
    )


def _taken(array: NDArray[Any] | None, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    return None if array is None else np.ascontiguousarray(array[rows])


def _table(table: ScoreTable | None, rows: NDArray[np.int64]) -> ScoreTable | None:
    if table is None:
        return None
    return ScoreTable(table.values[rows], _taken(table.ids, rows), _taken(table.log_normalizer, rows))


def _renumbered(provenance: dict[str, Any], chosen: list[int]) -> dict[str, Any]:
    """The provenance with the numbers of looping requests as the selection counts them."""
    looping = provenance.get("requests_with_repetition")
    if not isinstance(looping, list):
        return provenance
    return provenance | {"requests_with_repetition": [i for i, old in enumerate(chosen) if old in set(looping)]}
