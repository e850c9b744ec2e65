"""What a predictor may see of a trace: nothing that a runtime would not know at that moment.

In a prompt's prefill all tokens pass a layer together, so that no token knows what the token before it will use in a
later layer. In decode the whole step before is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.predictors.settings import MoeBeyondSettings, Settings
from traces.errors import UserError
from traces.format.mapped import load
from traces.format.ranks import signed_ids
from traces.format.trace import DECODE, Trace

UNKNOWN = -1
"""In ``Rows.previous``: no token before it has been through that layer."""


Piece = tuple[int, int]
"""First row and end of a request, or of a part of a long one."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The model whose routing is predicted."""

    model: str
    num_layers: int
    num_experts: int
    top_k: int

    @staticmethod
    def of(trace: Trace) -> Shape:
        return Shape(trace.geometry.model, trace.num_layers, trace.num_experts, trace.top_k)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Which of a trace's tensors a predictor reads.

    ``signal``: what stands in for the hidden state of the current layer, which a trace does not hold: 'gate_scores'
    (of all experts), 'weights' (of the chosen experts), 'experts' (which were chosen) or None.
    """

    tokens: bool
    experts: bool
    signal: str | None


@dataclass(frozen=True, slots=True)
class Rows:
    """n consecutive rows of one request as a predictor sees them."""

    tokens: NDArray[np.int64] | None
    """[n] index in the vocabulary; 0 for tokens that are rare or were never seen."""
    previous: NDArray[np.int64]
    """[n, L, K] experts of the token before, UNKNOWN where they are not known yet."""
    signal: NDArray[np.float32] | None
    """[n, L, E] of the token itself; the network may look only at layers that have been reached."""


def choose_inputs(settings: Settings, trace: Trace) -> Inputs:
    """What a new predictor will read of ``trace``.

    Raises: UserError where the settings ask for tokens that the trace does not hold, or for a future that holds the
    answer itself.
    """
    if not isinstance(settings, MoeBeyondSettings):
        has_weights = "weights" if trace.topk_weights is not None else "experts"
        return Inputs(False, settings.previous, "gate_scores" if trace.router_logits is not None else has_weights)
    wanted = settings.inputs
    if wanted == "auto":
        wanted = "experts" if trace.token_ids is None else "tokens"
    if wanted != "experts" and trace.token_ids is None:
        raise UserError(f"predictor.inputs={wanted}: the trace holds no token ids; use experts")
    if wanted != "tokens" and not settings.causal:
        raise UserError(
            f"predictor.causal=false: with inputs={wanted} a later token shows the very experts to predict; it needs "
            "a trace with token ids and predictor.inputs=tokens"
        )
    return Inputs(wanted != "experts", wanted != "tokens", None)


def vocabulary_of(trace: Trace, requests: tuple[int, ...], min_count: int) -> NDArray[np.int64]:
    """Token ids that ``requests`` hold at least ``min_count`` times, rising; none where there are no requests."""
    if not requests or trace.token_ids is None:
        return np.empty(0, np.int64)
    offsets = trace.request_offsets
    held = np.concatenate([trace.token_ids[offsets[request] : offsets[request + 1]] for request in requests])
    ids, counts = np.unique(held, return_counts=True)
    return ids[counts >= min_count].astype(np.int64)


class RowSource:
    """Reads rows of a trace as a predictor's input and as what it should predict."""

    def __init__(self, trace: Trace, inputs: Inputs, vocabulary: NDArray[np.int64], as_decode: bool = False) -> None:
        """``as_decode``: every row is a step of its own (teacher-forced traces).

        Raises: UserError where the trace lacks what the predictor reads.
        """
        if inputs.tokens and trace.token_ids is None:
            raise UserError("the predictor reads token ids, and the trace holds none: train one with inputs=experts")
        if inputs.signal == "gate_scores" and trace.router_logits is None:
            raise UserError("the predictor reads gate scores, and the trace holds none: train one on such a trace")
        if inputs.signal == "weights" and trace.topk_weights is None:
            raise UserError("the predictor reads the experts' weights, and the trace holds none: train one without")
        self.trace, self.inputs, self.vocabulary, self.as_decode = trace, inputs, vocabulary, as_decode

    def bounds(self, request: int) -> tuple[int, int]:
        """First row and end of a request."""
        first, end = self.trace.request_offsets[request : request + 2]
        return int(first), int(end)

    def pieces(self, requests: tuple[int, ...], longest: int) -> list[Piece]:
        """The rows of requests, cut where a request is longer than ``longest`` rows."""
        bounds = map(self.bounds, requests)
        return [(i, min(i + longest, end)) for first, end in bounds for i in range(first, end, longest)]

    def request_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The request of each row."""
        return np.searchsorted(self.trace.request_offsets, rows, side="right") - 1

    def read(self, start: int, stop: int) -> Rows:
        """Input of rows start..stop, which belong to one request."""
        tokens = self._tokens(start, stop) if self.inputs.tokens else None
        signal = None if self.inputs.signal is None else self._signal(start, stop)
        return Rows(tokens, self.previous(start, stop), signal)

    def previous(self, start: int, stop: int) -> NDArray[np.int64]:
        """[n, L, K] experts of the row before each row, UNKNOWN at a request's begin, in prefill and at empty ranks."""
        trace = self.trace
        rows = np.arange(start, stop)
        first = trace.request_offsets[self.request_of(rows)]
        known = (rows > first) & ((trace.phase[start:stop] == DECODE) | self.as_decode)
        before = signed_ids(trace.topk_ids[np.maximum(rows - 1, 0)], trace.fewer, np.int64)
        return np.where(known[:, None, None], before, UNKNOWN)

    def targets(self, start: int, stop: int) -> NDArray[np.bool_]:
        """[n, L, E] whether the router chose the expert."""
        ids = signed_ids(load(self.trace.topk_ids[start:stop]), self.trace.fewer, np.int64)
        return many_hot(ids, self.trace.num_experts)

    def _tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        assert self.trace.token_ids is not None
        ids = load(self.trace.token_ids[start:stop]).astype(np.int64)
        place = np.searchsorted(self.vocabulary, ids)
        inside = np.minimum(place, max(self.vocabulary.size - 1, 0))
        known = (self.vocabulary[inside] == ids) if self.vocabulary.size else np.zeros(ids.shape, bool)
        return np.where(known, place + 1, 0)

    def _signal(self, start: int, stop: int) -> NDArray[np.float32]:
        trace = self.trace
        if self.inputs.signal == "gate_scores":  # log of how far a score is above that of an even gate
            scores = trace.gate_scores(start, stop) * trace.num_experts
            return np.clip(np.log(np.maximum(scores, 1e-9)), -8.0, 8.0).astype(np.float32)
        ids = signed_ids(load(trace.topk_ids[start:stop]), trace.fewer, np.int64)
        dense = np.zeros((*ids.shape[:2], trace.num_experts + 1), np.float32)  # empty ranks write into the last
        weights: Any = np.float32(1.0)
        if self.inputs.signal == "weights":
            weights = load(trace.topk_weights[start:stop]).astype(np.float32) * trace.top_k  # type: ignore[index]
        np.put_along_axis(dense, ids, weights, axis=-1)
        return np.ascontiguousarray(dense[..., :-1])


def many_hot(ids: NDArray[np.int64], num_experts: int) -> NDArray[np.bool_]:
    """[..., E] true at the given experts [..., K]; UNKNOWN marks none."""
    marked = np.zeros((*ids.shape[:-1], num_experts + 1), np.bool_)
    np.put_along_axis(marked, np.where(ids == UNKNOWN, num_experts, ids), True, axis=-1)
    return marked[..., :num_experts]
