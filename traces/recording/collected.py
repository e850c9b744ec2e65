"""Collects every routing decision that a `Tap` reports while a model runs, and makes a `Trace` of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.ranks import stored_ids
from traces.format.score_function import Explanation, are_best
from traces.format.trace import SCORE_TABLES, Geometry, ScoreTable, Trace, id_dtype
from traces.recording.choices import best_first, stacked_choices
from traces.recording.moe_layers import MoELayer, family_name
from traces.recording.moe_probe import probe_tokens
from traces.recording.packing import pack_scores
from traces.recording.similarity import SimilaritySample
from traces.recording.tap import Routing, Tap

if TYPE_CHECKING:
    import torch


class Collector(Tap):
    """Keeps ids, weights and scores of every forward pass of `model`, for a trace.

    Hooks the model while the `with` block lasts: call `start_request`, then `end_step` after each forward pass, and
    `trace` at the end. `sample`: also keep inputs of experts, to measure how similar experts are.

    Raises: UserError on construction if the model cannot be hooked or its layers differ in the number of experts.
    """

    def __init__(self, model: torch.nn.Module, lookahead: bool, sample: SimilaritySample | None = None) -> None:
        on_layer_end = partial(self._keep, "lookahead_after") if lookahead else None
        super().__init__(
            model, self._keep_routing, on_layer_end=on_layer_end, lookahead=lookahead, selection=True, keep_going=True
        )
        _check_uniform(model, self.layers)
        self._num_experts = self.layers[0].num_experts
        self._sample: SimilaritySample | None = None
        self._absent: dict[str, str] = {}
        self._begin()
        self._try_tables()
        self._sample = sample

    def _begin(self) -> None:
        self._ids: list[NDArray[np.int64]] = []  # per step [n, L, K]
        self._weights: list[NDArray[np.float32]] = []
        self._tables: dict[str, list[NDArray[np.float32]]] = {name: [] for name in SCORE_TABLES}
        self._step: dict[str, dict[int, NDArray[Any]]] = {}
        self._tokens: list[int] = []
        self._phase: list[int] = []
        self._offsets: list[int] = [0]
        self._prompt_len: list[int] = []
        self._labels: list[str | None] = []

    def _try_tables(self) -> None:
        """One short pass, so that a table that cannot be made is known before the first prompt runs; it is not kept."""
        import torch

        tokens = probe_tokens(self.model)
        with torch.no_grad(), self:
            self.start_request(tokens.shape[1], None)
            self.model(input_ids=tokens)
            self.end_step(tokens[0].tolist(), 0)
        for name in SCORE_TABLES:
            table = self._table(name)
            if table is not None and not _is_usable(name, table):
                self.failed[name] = "the model gave values that are no numbers in a probe pass"
        self._begin()

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
        chosen, factors = ([step[name][layer] for layer in range(count)] for name in ("ids", "weights"))
        ids, weights = stacked_choices(chosen, factors, self._num_experts)
        self._ids.append(ids)
        self._weights.append(weights)
        for name in SCORE_TABLES:
            rows = count - 1 if name.startswith("lookahead") else count
            layers = step.get(name, {})
            if rows and len(layers) == rows:
                self._tables[name].append(np.stack([layers[layer] for layer in range(rows)], axis=1))
        self._tokens.extend(tokens)
        self._phase.extend([phase] * len(tokens))
        self._offsets[-1] += len(tokens)

    def findings(self) -> dict[str, Any]:
        """What could not be recorded and why, and what was measured beside the routing, for the provenance.

        Complete once `trace` has been called. `known_ahead_layers`: MoE layers whose experts follow from the token.
        """
        notes: dict[str, Any] = {}
        lacking = next((layer.no_scores for layer in self.layers if layer.no_scores is not None), None)
        if lacking is not None:
            notes["router_logits"] = f"absent: {lacking}"
        elif not self.has_lookahead_after and len(self.layers) > 1:
            notes["lookahead_after"] = "absent: the router's input is not the output of a norm module in this family"
        notes |= {name: f"absent: {reason}" for name, reason in {**self.failed, **self._absent}.items()}
        if hashed := [layer.index for layer in self.layers if layer.hashed]:
            notes["known_ahead_layers"] = hashed
        if self._sample is not None and "expert_similarity" not in notes:
            notes["expert_similarity"] = self._sample.statement
        return notes

    def trace(self, geometry: Geometry, provenance: dict[str, Any], top_k_extra: int | None, half: bool) -> Trace:
        """Everything gathered so far as one trace; `top_k_extra` experts beyond top-k stay in lookahead tables."""
        ids, weights = best_first(np.concatenate(self._ids), np.concatenate(self._weights))
        has_weights = bool(np.isfinite(weights).all() and (weights >= 0).all())
        if not has_weights:
            self._absent["topk_weights"] = "the model gave factors that are negative or no numbers"
        logits, selection, explanation = self._proved(ids, weights)
        scale = None if explanation is None else explanation.scale
        if scale is not None:
            provenance = {**provenance, "weight_scale": scale}
        width = None if top_k_extra is None else geometry.top_k + top_k_extra
        fewer = bool((ids < 0).any())
        order = None if fewer or selection is not None else ids
        return Trace(
            geometry=geometry,
            topk_ids=stored_ids(ids, geometry.num_experts) if fewer else ids.astype(id_dtype(geometry.num_experts)),
            topk_weights=weights.astype(np.float16 if half else np.float32) if has_weights else None,
            fewer=fewer,
            router_logits=_packed(logits, geometry.top_k, None, half, order),
            selection_scores=_packed(selection, geometry.top_k, None, half),
            lookahead_before=_packed(self._lookahead_table("before", logits), geometry.top_k, width, half),
            lookahead_after=_packed(self._lookahead_table("after", logits), geometry.top_k, width, half),
            token_ids=np.asarray(self._tokens, np.int32),
            expert_similarity=self._similarity(),
            request_offsets=np.asarray(self._offsets, np.int64),
            prompt_len=np.asarray(self._prompt_len, np.int32),
            phase=np.asarray(self._phase, np.uint8),
            ranked=has_weights,
            score_function=None if explanation is None else explanation.function,
            request_labels=_labels(self._labels),
            provenance={**self.findings(), **provenance},
        )

    def _similarity(self) -> NDArray[np.float16] | None:
        """How alike the experts are, where it was asked for and the experts can be run alone."""
        if self._sample is None:
            return None
        try:
            return self._sample.measure(self.layers)
        except Exception as error:  # of the model's own code; what was recorded is kept
            self._absent["expert_similarity"] = (
                f"the experts cannot be run one by one ({type(error).__name__}: {error})"
            )
            return None

    def drop_request(self) -> None:
        """Forget the request that was begun last."""
        rows = self._offsets.pop() - self._offsets[-1] if self._prompt_len else 0
        steps, kept = 0, 0
        for made in reversed(self._ids):
            if kept == rows:
                break
            kept, steps = kept + len(made), steps + 1
        before = len(self._ids) - steps
        for name in SCORE_TABLES:
            if len(self._tables[name]) == len(self._ids):
                del self._tables[name][before:]
        for rows_of in (self._ids, self._weights):
            del rows_of[before:]
        for one in (self._tokens, self._phase):
            del one[len(one) - rows :]
        self._prompt_len.pop()
        self._labels.pop()
        self._step = {}

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

    def _proved(
        self, ids: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, Explanation | None]:
        """(logits, selection scores, what explains the weights): all None where they do not give the recorded choice.

        The probe pass found where the scores are; here they have to give every id and every weight that was recorded.
        """
        logits = self._table("router_logits")
        source = self.layers[0].scores
        if logits is None or source is None:
            return None, None, None
        routers = tuple(layer.router for layer in self.layers if layer.router is not None)
        explanation = source.explain(routers, ids, weights, logits)
        selection = None if are_best(ids, logits) else self._table("selection_scores")
        if explanation is None or not (explanation.shows or are_best(ids, logits)):
            reason = "no known function of the scores gives all recorded weights, though one did in the probe pass"
        elif selection is None and not are_best(ids, logits):
            reason = "the recorded experts are not those of the best scores, nor did a topk call show by what they were"
        elif selection is not None and not are_best(ids, selection):
            reason = "the recorded experts are not those of the best selection scores"
        else:
            return logits, selection, explanation
        self._absent["router_logits"] = reason
        return None, None, None

    def _lookahead_table(self, variant: str, logits: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """A lookahead table, which is worth as much as the logits of the same routers."""
        return None if logits is None else self._table(f"lookahead_{variant}")

    def _table(self, name: str) -> NDArray[np.float32] | None:
        """All rows of one score table, None unless every step had it and its values are numbers."""
        steps = self._tables[name]
        if name in self.failed or not steps or len(steps) != len(self._ids):
            return None
        table = np.concatenate(steps)
        if _is_usable(name, table):
            return table
        self._absent[name] = "the model gave values that are no numbers"
        return None


def _is_usable(name: str, table: NDArray[np.float32]) -> bool:
    """Whether a trace may hold the table: no NaN, and infinities only where a selection excludes experts."""
    finite = ~np.isnan(table) & (table < np.inf) if name == "selection_scores" else np.isfinite(table)
    return bool(finite.all())


def _check_uniform(model: torch.nn.Module, layers: tuple[MoELayer, ...]) -> None:
    values = sorted({layer.num_experts for layer in layers})
    if len(values) > 1:
        raise UserError(
            f"{family_name(model)} has layers of different num_experts ({', '.join(map(str, values))}); "
            "a trace needs the same in every MoE layer"
        )


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
