"""A stand-in for routing that nobody recorded: the shape of one model, the scores of another. SYNTHETIC."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.softmax import softmax
from traces.format.trace import Geometry, ScoreTable, Trace, id_dtype

SEED = 0
"""Of the permutations: a stand-in of a shape is always the same."""


def stand_in(source: Trace, geometry: Geometry, gate_slope: float = 1.0) -> Trace:
    """A trace with the layers, experts and top_k of ``geometry``, from the recorded logits of ``source``.

    ``gate_slope``: factor on the logits; below 1 scores lie closer together, while the routed experts stay the same.

    Layers are the source's in turn, experts are blocks of its experts side by side. Every layer and block permutes the
    experts anew and runs ahead in time, within the prompt and the decode steps of the same request, by its own part of
    their length, so that no two are alike; the best top_k by logit are routed. What stays: the spread of scores and
    how they drift from token to token, within a request and phase. What is lost: how layers depend on each other,
    so there is no lookahead; how experts of different blocks depend on each other; the score function becomes the
    softmax over the routed experts.

    Raises: UserError where the source has no logits of all experts.
    """
    logits = source.router_logits
    if logits is None or logits.truncated:
        raise UserError("trace.shape=model needs a trace with the logits of all experts: the embedded one has them")
    layers, experts, ranks = geometry.num_layers, geometry.num_experts, geometry.top_k
    blocks = -(-experts // source.num_experts)
    shifts = -(-layers // source.num_layers) * blocks
    permutations = np.random.default_rng([SEED, layers, experts])
    values = np.empty((source.num_tokens, layers, experts), logits.values.dtype)
    ids = np.empty((source.num_tokens, layers, ranks), id_dtype(experts))
    whole = np.empty((source.num_tokens, blocks * source.num_experts), logits.values.dtype)
    for layer in range(layers):
        for block in range(blocks):
            turn = layer // source.num_layers * blocks + block
            order = permutations.permutation(source.num_experts)
            rows = _ahead(source, turn / shifts)
            columns = slice(block * source.num_experts, (block + 1) * source.num_experts)
            whole[:, columns] = logits.values[rows, layer % source.num_layers][:, order]
        values[:, layer] = gate_slope * whole[:, :experts]
        ids[:, layer] = np.argsort(-whole[:, :experts].astype(np.float32), axis=-1, kind="stable")[:, :ranks]
    chosen = softmax(np.take_along_axis(values, ids.astype(np.int64), axis=-1))
    return replace(
        source,
        geometry=geometry,
        topk_ids=ids,
        topk_weights=chosen.astype(np.float16),
        router_logits=ScoreTable(values),
        selection_scores=None,
        lookahead_before=None,
        lookahead_after=None,
        expert_similarity=None,
        ranked=True,
        score_function="softmax_topk",
        provenance={"stand_in_of": source.provenance, "label": "SYNTHETIC"},
        content_hash=f"{source.content_hash}/stand_in[{layers} layers, top {ranks} of {experts}, slope {gate_slope:g}]",
    )


def _ahead(source: Trace, part: float) -> NDArray[Any]:
    """Row to read for every row, [T]: ``part`` of its request's prompt or decode steps later, around the end."""
    rows = np.arange(source.num_tokens)
    for start, end in zip(source.request_offsets[:-1], source.request_offsets[1:], strict=True):
        for phase in np.unique(source.phase[start:end]):
            of_phase = start + np.flatnonzero(source.phase[start:end] == phase)
            rows[of_phase] = np.roll(of_phase, -int(part * len(of_phase)))
    return rows
