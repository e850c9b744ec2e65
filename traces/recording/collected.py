"""Collects every routing decision that a `Tap` reports while a model runs, and makes a `Trace` of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import SCORE_TABLES, Geometry, ScoreTable, Trace, id_dtype
from traces.recording.moe_layers import MoELayer, family_name
from traces.recording.packing import pack_scores
from traces.recording.score_function import name_score_function
from traces.recording.similarity import SimilaritySample
from traces.recording.tap import Routing, Tap

if TYPE_CHECKING:
    import torch


class Collector(Tap):
    """Keeps ids, weights and scores of every forward pass of `model`, for a trace.

    Hooks the model while the `with` block lasts: call `start_request`, then `end_step` after each forward pass, and
    `trace` at the end. `sample`: also keep inputs of experts, to measure how similar experts are.

    Raises: UserError on construction if the model cannot be hooked or its layers differ in experts or top-k.
    """

    def __init__(self, model: torch.nn.Module, lookahead: bool, sample: SimilaritySample | None = None) -> None:
        on_layer_end = partial(self._keep, "lookahead_after") if lookahead else None
        super().__init__(model, self._keep_routing, on_layer_end=on_layer_end, lookahead=lookahead, selection=True)
        _check_uniform(model, self.layers)
        self._sample = sample
        self._ids: list[NDArray[np.int64]] = []  # per step [n, L, K]
        self._weights: list[NDArray[np.float32]] = []
        self._tables: dict[str, list[NDArray[np.float32]]] = {name: [] for name in SCORE_TABLES}
        self._step: dict[str, dict[int, NDArray[Any]]] = {}
        self._tokens: list[int] = []
        self._phase: list[int] = []
        self._offsets: list[int] = [0]
        self._prompt_len: list[int] = []
        self._labels: list[str | None] = []

    def start_request(self, prompt_len: int, label: str | None) -> None:
        """Following steps belong to a new request."""
        self._prompt_len.append(prompt_len)
        self._labels.append(label)
        self._offsets.append(self._offsets[-1])
        self._step = {}

    def end_step(self, tokens: list[int], phase: int) -> None:
        """Close one forward pass over `tokens`."""
        step, self._step = self._step, {}
        count = len(self.layers)
        for name, target in (("ids", self._ids), ("weights", self._weights)):
            target.append(np.stack([step[name][layer] for layer in range(count)], axis=1))
        for name in SCORE_TABLES:
            rows = count - 1 if name.startswith("lookahead") else count
            layers = step.get(name, {})
            if rows and len(layers) == rows:
                self._tables[name].append(np.stack([layers[layer] for layer in range(rows)], axis=1))
        self._tokens.extend(tokens)
        self._phase.extend([phase] * len(tokens))
        self._offsets[-1] += len(tokens)

    def findings(self) -> dict[str, str]:
        """What could not be recorded and why, and what was measured beside the routing, for the provenance."""
        notes = {}
        if not self.has_router_logits:
            notes["router_logits"] = "absent: this family chooses its experts outside a router module"
        elif not self.has_lookahead_after and len(self.layers) > 1:
            notes["lookahead_after"] = "absent: the router's input is not the output of a norm module in this family"
        if self._sample is not None:
            notes["expert_similarity"] = self._sample.statement
        return notes

    def trace(self, geometry: Geometry, provenance: dict[str, Any], top_k_extra: int | None, half: bool) -> Trace:
        """Everything gathered so far as one trace; `top_k_extra` experts beyond top-k stay in lookahead tables."""
        ids, weights = np.concatenate(self._ids), np.concatenate(self._weights)
        # Some routers return their choice unsorted; a trace lists it by falling weight.
        order = np.argsort(-weights, axis=-1, kind="stable")
        ids, weights = np.take_along_axis(ids, order, -1), np.take_along_axis(weights, order, -1)
        logits = self._table("router_logits")
        selection = None
        by_logits = logits is not None and _are_best(ids, logits)
        if logits is not None and not by_logits:
            selection = self._table("selection_scores")
            if selection is None:
                reason = "absent: the choice used other scores than the logits, which no topk call of the router showed"
                provenance = {**provenance, "selection_scores": reason}
        score_function, scale = name_score_function(ids, weights, logits)
        if scale is not None:
            provenance = {**provenance, "weight_scale": scale}
        width = None if top_k_extra is None else geometry.top_k + top_k_extra
        return Trace(
            geometry=geometry,
            topk_ids=ids.astype(id_dtype(geometry.num_experts)),
            topk_weights=weights.astype(np.float16 if half else np.float32),
            router_logits=_packed(logits, geometry.top_k, None, half, ids if by_logits else None),
            selection_scores=_packed(selection, geometry.top_k, None, half),
            lookahead_before=_packed(self._table("lookahead_before"), geometry.top_k, width, half),
            lookahead_after=_packed(self._table("lookahead_after"), geometry.top_k, width, half),
            token_ids=np.asarray(self._tokens, np.int32),
            expert_similarity=None if self._sample is None else self._sample.measure(self.layers),
            request_offsets=np.asarray(self._offsets, np.int64),
            prompt_len=np.asarray(self._prompt_len, np.int32),
            phase=np.asarray(self._phase, np.uint8),
            ranked=True,
            score_function=score_function,
            request_labels=_labels(self._labels),
            provenance=provenance,
        )

    def _keep_routing(self, routing: Routing) -> None:
        if self._sample is not None:
            self._sample.add(routing)
        self._keep("ids", routing.layer, routing.topk_ids)
        self._keep("weights", routing.layer, routing.topk_weights)
        self._keep("router_logits", routing.layer, routing.router_logits)
        self._keep("selection_scores", routing.layer, routing.selection_scores)
        self._keep("lookahead_before", routing.layer, routing.lookahead)

    def _keep(self, name: str, layer: int, tensor: torch.Tensor | None) -> None:
        if tensor is not None:
            array = tensor.detach()
            self._step.setdefault(name, {})[layer] = (array.float() if name != "ids" else array).cpu().numpy().copy()

    def _table(self, name: str) -> NDArray[np.float32] | None:
        """All rows of one score table, None unless every step had it."""
        steps = self._tables[name]
        return np.concatenate(steps) if steps and len(steps) == len(self._ids) else None


def _check_uniform(model: torch.nn.Module, layers: tuple[MoELayer, ...]) -> None:
    for name in ("num_experts", "top_k"):
        values = sorted({getattr(layer, name) for layer in layers})
        if len(values) > 1:
            raise UserError(
                f"{family_name(model)} has layers of different {name} ({', '.join(map(str, values))}); "
                "a trace needs the same in every MoE layer"
            )


def _are_best(ids: NDArray[np.int64], logits: NDArray[np.float32]) -> bool:
    """Whether the chosen experts are everywhere those of the highest logits."""
    chosen = np.take_along_axis(logits, ids, axis=-1).min(axis=-1)
    others = logits.copy()
    np.put_along_axis(others, ids, -np.inf, axis=-1)
    return bool((chosen >= others.max(axis=-1)).all())


def _packed(
    logits: NDArray[np.float32] | None,
    top_k: int,
    width: int | None,
    half: bool,
    chosen: NDArray[np.int64] | None = None,
) -> ScoreTable | None:
    return None if logits is None else pack_scores(logits, top_k, width, half, chosen)


def _labels(labels: list[str | None]) -> tuple[str, ...] | None:
    return None if all(label is None for label in labels) else tuple(label or "" for label in labels)
