"""What a routing trace holds: which experts each token used in each layer, with the scores they were chosen by.

Legend of shapes: T rows (tokens), L MoE layers, E routed experts per layer, K experts per token, R requests,
W listed experts of a truncated score table. All requests lie one after the other in the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.mapped import load, take_spans
from traces.format.sampling import spread

PREFILL, DECODE = 0, 1
ROW_ARRAYS = ("topk_ids", "phase", "topk_weights", "token_ids", "draft_counts")
SCORE_TABLES = ("router_logits", "selection_scores", "lookahead_before", "lookahead_after")
NO_STEP = 255
"""In `draft_counts`: no recorded step began with the row, or nobody counted its drafts."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of the model that routed; None means unknown, which is never the same as zero.

    Tuples have one entry per MoE layer. `attention_bytes`: attention, router and norms, read in every step;
    `shared_bytes`: shared experts (0 where the model has none); `other_bytes`: once per step, LM head and dense layers;
    `kv_bytes_per_token`: K and V of one token over all layers that cache it, with experts or without, divided by
    `num_layers`; `weight_bits`: stored bits per expert weight.
    """

    model: str
    num_layers: int
    num_experts: int
    top_k: int
    expert_bytes: tuple[int, ...] | None = None
    attention_bytes: tuple[int, ...] | None = None
    shared_bytes: tuple[int, ...] | None = None
    other_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    hidden_size: int | None = None
    weight_bits: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of all experts before normalisation, or of the W best of them with the mass of the rest.

    Dense: `values` [T, L, E] float16|float32, the other two None. Truncated: `values` [T, L, W] falling, `ids`
    [T, L, W] uint8|uint16, `log_normalizer` [T, L] float32 = logsumexp over all E logits, so that the
    probability of a listed expert is exact; the last listed value is the floor below which nothing is known.
    """

    values: NDArray[Any]
    ids: NDArray[Any] | None = None
    log_normalizer: NDArray[np.float32] | None = None

    @property
    def truncated(self) -> bool:
        """Whether only the W best experts are listed."""
        return self.ids is not None

    def take(self, rows_of: Callable[[NDArray[Any]], NDArray[Any]]) -> "ScoreTable":
        """The table of some rows, which `rows_of` takes from each array."""
        ids = None if self.ids is None else rows_of(self.ids)
        listed = None if self.log_normalizer is None else rows_of(self.log_normalizer)
        return ScoreTable(rows_of(self.values), ids, listed)

    def probabilities(self, start: int, stop: int, num_experts: int) -> NDArray[np.float32]:
        """Softmax of the logits, [stop-start, L, E] float32.

        Truncated tables: unlisted experts share the remaining mass equally, which is an ESTIMATE.
        """
        if self.ids is None or self.log_normalizer is None:
            from traces.format.softmax import softmax

            return softmax(load(self.values[start:stop]))
        logits = load(self.values[start:stop]).astype(np.float32)
        listed = np.exp(logits - load(self.log_normalizer[start:stop])[:, :, None])  # [n, L, W]
        rest = np.clip(1.0 - listed.sum(axis=-1), 0.0, None) / max(1, num_experts - listed.shape[-1])  # [n, L]
        dense = np.repeat(rest[..., None], num_experts, axis=-1).astype(np.float32)
        np.put_along_axis(dense, load(self.ids[start:stop]).astype(np.int64), listed, axis=-1)
        return dense

    def floors(self, start: int, stop: int) -> NDArray[np.float32]:
        """Probability of the last listed expert, [stop-start, L]; 0 where all experts are listed."""
        if self.log_normalizer is None:
            return np.zeros((stop - start, self.values.shape[1]), np.float32)
        last = load(self.values[start:stop])[:, :, -1].astype(np.float32)
        floor: NDArray[np.float32] = np.exp(last - load(self.log_normalizer[start:stop]))
        return floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One recorded or imported routing trace; arrays may be read-only views of a mapped file.

    `topk_ids` [T, L, K] uint8|uint16, best first if `ranked`; `topk_weights` [T, L, K] float16|float32, as the model
    multiplies expert outputs. `fewer`: a token may use fewer than K experts of a layer, or none; ranks without one
    stand last, with weight 0 and the largest id of the dtype (`traces.format.ranks`). `router_logits`: unbiased logits
    of all experts; `selection_scores`: only where the choice used other scores (a bias, groups). `lookahead_before` /
    `lookahead_after`, [T, L-1, ...]: row l is the gate of layer l+1 applied at layer l, 'before' on the input of layer
    l's own gate (available at that gate), 'after' on the residual after layer l's MoE (available at the end of layer
    l).
    `request_offsets` [R+1] int64; `prompt_len` [R] int32, tokens of the prompt whether recorded or not;
    `phase` [T] uint8: a request is its prompt's PREFILL rows, DECODE rows, and so on for further turns; prompt tokens
    without a row (a cached prefix, or none recorded) come before its first row. `score_function`: how weights come from
    logits ("softmax", "softmax_topk", "sigmoid", ...). `request_labels`: data set or conversation of each request;
    `request_numbers` [R] int64: where they stood in the trace that they were taken from, None for a whole one.
    `recorded_layers`: of a trace in memory whose layers are the recorded ones over and over
    (`traces.format.layers`), how many those are; None for one as recorded.
    `request_turns` [R, 2] int64: chat of each request and which of its turns it is, both from 0, where requests are the
    turns of chats; never stored.
    `draft_counts` [T, 2] uint8: drafts that were verified in the step that began with the row, and how many of them
    were accepted, or NO_STEP and 0.
    `expert_similarity` [L, E, E] float16: cosine of two experts' outputs on the same inputs, averaged over measured
    tokens. `content_hash`: sha256 of tensors and geometry, set by reading and writing, empty for a trace that has not
    been written yet.
    """

    geometry: Geometry
    topk_ids: NDArray[Any]
    request_offsets: NDArray[np.int64]
    prompt_len: NDArray[np.int32]
    phase: NDArray[np.uint8]
    topk_weights: NDArray[Any] | None = None
    router_logits: ScoreTable | None = None
    selection_scores: ScoreTable | None = None
    lookahead_before: ScoreTable | None = None
    lookahead_after: ScoreTable | None = None
    token_ids: NDArray[np.int32] | None = None
    draft_counts: NDArray[np.uint8] | None = None
    expert_similarity: NDArray[Any] | None = None
    ranked: bool = True
    fewer: bool = False
    score_function: str | None = None
    request_labels: tuple[str, ...] | None = None
    request_numbers: NDArray[np.int64] | None = None
    recorded_layers: int | None = None
    request_turns: NDArray[np.int64] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    content_hash: str = ""

    @property
    def num_tokens(self) -> int:
        """Rows of the trace, prefill and decode."""
        return int(self.topk_ids.shape[0])

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return self.geometry.num_layers

    @property
    def num_experts(self) -> int:
        """Routed experts per layer."""
        return self.geometry.num_experts

    @property
    def top_k(self) -> int:
        """Experts per token: the most where a token may use fewer."""
        return self.geometry.top_k

    @property
    def num_requests(self) -> int:
        """Requests in the trace."""
        return int(self.prompt_len.shape[0])

    @property
    def synthetic(self) -> bool:
        """Whether the routing was made up and not recorded: a stand-in, or drawn from a card."""
        return self.provenance.get("label") == "SYNTHETIC"

    def select_requests(self, count: int, first: int = 0) -> "Trace":
        """The `count` requests from number `first` on, as views; the content hash names the part.

        Raises: UserError if `count` is below 1 or there are not that many requests.
        """
        end = first + count
        if count < 1 or not 0 <= first <= end <= self.num_requests:
            raise UserError(
                f"trace.requests={count}: must be from 1 to {self.num_requests}, the requests of this trace"
            )
        return self.take_requests(np.arange(first, end), f"requests[{first}:{end}]")

    def sample_requests(self, count: int, seed: int, among: int | None = None) -> "Trace":
        """`count` of the first `among` requests (all), drawn by `seed`, spread over their labels and in their order.

        Raises: UserError if `count` is below 1 or there are not that many requests.
        """
        among = self.num_requests if among is None else among
        if not 1 <= count <= among:
            raise UserError(f"trace.sample={count}: must be from 1 to {among}, the requests to choose from")
        chosen = spread(self.request_labels, among, count, seed)
        return self.take_requests(chosen, f"sample[{count} of {among}, seed {seed}]")

    def clusters(self) -> NDArray[np.int64] | None:
        """The data set or conversation of each request as a number, [R]; None where the trace names none."""
        labels = self.request_labels
        return None if labels is None else np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)

    def select_labels(self, labels: tuple[str, ...]) -> "Trace":
        """The requests that carry one of `labels`, in their order; the content hash names the labels.

        Raises: UserError for a trace without labels, or a label that no request carries.
        """
        known = self.request_labels
        if known is None:
            raise UserError(f"trace.labels=[{','.join(labels)}]: the requests of this trace carry no labels")
        if unknown := [label for label in labels if label not in known]:
            raise UserError(
                f"trace.labels: no request is labelled {unknown[0]}; known are {', '.join(sorted(set(known)))}"
            )
        chosen = np.flatnonzero(np.isin(np.array(known), np.array(labels)))
        return self.take_requests(chosen, f"labels[{','.join(sorted(labels))}]")

    def take_requests(self, requests: NDArray[np.int64], part: str) -> "Trace":
        """Requests by number, in the order given: views if they are neighbours, else copies, in a file where large.

        `part` is added to the content hash; all requests in their own order are the trace itself.
        """
        if np.array_equal(requests, np.arange(self.num_requests)):
            return self
        return self._take_heads(requests, np.diff(self.request_offsets)[requests], part)

    def take_prompts(self) -> "Trace":
        """What each request begins with: its first stretch of prefill. Requests without one are left out.

        Raises: UserError if none has one.
        """
        lengths = first_prompts(self, self.phase)
        chosen = np.flatnonzero(lengths)
        if chosen.size == 0:
            raise UserError("trace.fit_on=prompts: no request of this trace has rows of its prompt")
        return self._take_heads(chosen, lengths[chosen], "prompts")

    def take_first_tokens(self, count: int) -> "Trace":
        """The first `count` rows of each request, or all that it has."""
        lengths = np.minimum(np.diff(self.request_offsets), count)
        return self._take_heads(np.arange(self.num_requests), lengths, f"tokens[:{count}]")

    def _take_heads(self, requests: NDArray[np.int64], lengths: NDArray[np.int64], part: str) -> "Trace":
        """The first `lengths` rows of some requests."""
        first_rows = self.request_offsets[requests]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        neighbours = bool((np.diff(first_rows) == lengths[:-1]).all())

        def rows_of(array: NDArray[Any]) -> NDArray[Any]:
            if neighbours:
                return array[int(first_rows[0]) : int(first_rows[0] + offsets[-1])]
            return take_spans(array, first_rows, lengths)

        changed: dict[str, Any] = {
            name: rows_of(array) for name in ROW_ARRAYS if (array := getattr(self, name)) is not None
        }
        changed |= {name: table.take(rows_of) for name in SCORE_TABLES if (table := getattr(self, name)) is not None}
        labels, numbers = self.request_labels, self.request_numbers
        return replace(
            self,
            **changed,
            request_offsets=offsets,
            prompt_len=self.prompt_len[requests],
            request_labels=None if labels is None else tuple(labels[request] for request in requests),
            request_numbers=requests if numbers is None else numbers[requests],
            request_turns=None if self.request_turns is None else self.request_turns[requests],
            provenance=renumbered(self.provenance, requests.tolist()),
            content_hash=f"{self.content_hash}/{part}",
        )

    def gate_scores(self, start: int, stop: int) -> NDArray[np.float32]:
        """Unbiased normalised probabilities, softmax(router_logits) of rows start..stop, [n, L, E] float32.

        Raises: UserError if the trace has no router_logits.
        """
        if self.router_logits is None:
            raise UserError(
                f"This trace of {self.geometry.model} has no router_logits, so the gate scores of the experts "
                "that were not chosen are unknown; record it with `python -m sim record` or choose a rule "
                "that needs only ids"
            )
        return self.router_logits.probabilities(start, stop, self.num_experts)

    def contexts(self) -> NDArray[np.int64]:
        """Tokens in the context of each request before its first row, [R]: what of its first prompt is not recorded."""
        return np.asarray(self.prompt_len - first_prompts(self, self.phase), np.int64)

    def positions(self) -> NDArray[np.int32]:
        """Position of each row in the context of its request, [T] int32: its rows follow each other without gaps."""
        starts = self.contexts() - self.request_offsets[:-1]
        return (np.arange(self.num_tokens) + np.repeat(starts, np.diff(self.request_offsets))).astype(np.int32)


def first_prompts(trace: Trace, phase: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Prefill rows that each request of `trace` begins with, [R], where its rows are in `phase` [T]."""
    offsets = trace.request_offsets
    decodes = np.append(np.flatnonzero(phase == DECODE), len(phase))
    first = decodes[np.searchsorted(decodes, offsets[:-1])]  # the next decode row of this or of a later request
    return np.asarray(np.minimum(first, offsets[1:]) - offsets[:-1], np.int64)


def rows_left(trace: Trace) -> NDArray[np.int64]:
    """Rows that follow each row in the same request and phase, [T]."""
    begins = np.ones(trace.num_tokens, bool)
    begins[1:] = trace.phase[1:] != trace.phase[:-1]
    begins[trace.request_offsets[:-1]] = True
    lengths = np.diff(np.flatnonzero(begins), append=trace.num_tokens)
    ends = np.repeat(np.cumsum(lengths), lengths)
    return np.asarray(ends - np.arange(trace.num_tokens) - 1, np.int64)


def id_dtype(num_experts: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest dtype of the trace format that holds every expert id."""
    return np.uint8 if num_experts <= 256 else np.uint16


def renumbered(provenance: dict[str, Any], requests: list[int]) -> dict[str, Any]:
    """The provenance with the numbers of looping requests as a selection of requests counts them."""
    looping = provenance.get("requests_with_repetition")
    if not isinstance(looping, list):
        return provenance
    numbers = {number for number in looping if isinstance(number, int)}
    return provenance | {"requests_with_repetition": [new for new, old in enumerate(requests) if old in numbers]}
