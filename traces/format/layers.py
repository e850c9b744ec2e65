"""A trace with more layers than were recorded: those recorded, over and over."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.format.mapped import take_columns
from traces.format.trace import Geometry, ScoreTable, Trace

PER_LAYER = ("expert_bytes", "attention_bytes", "shared_bytes")
"""Sizes with one entry for each layer."""


def repeat_layers(trace: Trace, num_layers: int) -> Trace:
    """The same requests with `num_layers` layers: layer i routes as the recorded layer i modulo those recorded.

    What no recording has between its last layer and its first, and what a layer's place decides, is left out: the
    lookahead tables and the similarity of experts. Large tables go to a file without a name (`take_columns`).

    Raises: UserError where that file cannot be written.
    """
    geometry, recorded = stretched(trace.geometry, num_layers), np.arange(num_layers) % trace.num_layers
    again = _with_layers(trace, recorded, geometry, f"layers[{num_layers} of {trace.num_layers}]")
    return replace(again, recorded_layers=trace.num_layers)


def take_layers(trace: Trace, first: int, stop: int) -> Trace:
    """The same requests with some of their layers; what looks ahead does so as far as they reach.

    Raises: UserError as `repeat_layers`.
    """
    sizes = {name: getattr(trace.geometry, name) for name in PER_LAYER}
    own: dict[str, Any] = {name: None if size is None else size[first:stop] for name, size in sizes.items()}
    geometry = replace(trace.geometry, num_layers=stop - first, **own)
    taken = _with_layers(trace, np.arange(first, stop), geometry, f"layers[{first}:{stop}]")
    gates = np.arange(first, stop - 1)  # row l is of layer l + 1
    similarity = trace.expert_similarity
    return replace(
        taken,
        lookahead_before=_table(trace.lookahead_before, lambda array: take_columns(array, gates)),
        lookahead_after=_table(trace.lookahead_after, lambda array: take_columns(array, gates)),
        expert_similarity=None if similarity is None else similarity[first:stop],
    )


def _with_layers(trace: Trace, layers: NDArray[np.int64], geometry: Geometry, what: str) -> Trace:
    """The same requests with the recorded layers that `layers` names, in that order."""
    file, slash, chosen = trace.content_hash.partition("/")

    def layers_of(array: NDArray[Any]) -> NDArray[Any]:
        return take_columns(array, layers)

    return replace(
        trace,
        geometry=geometry,
        topk_ids=layers_of(trace.topk_ids),
        topk_weights=None if trace.topk_weights is None else layers_of(trace.topk_weights),
        router_logits=_table(trace.router_logits, layers_of),
        selection_scores=_table(trace.selection_scores, layers_of),
        lookahead_before=None,
        lookahead_after=None,
        expert_similarity=None,
        recorded_layers=None,
        content_hash=f"{file}/{what}{slash}{chosen}",
    )


def stretched(geometry: Geometry, num_layers: int) -> Geometry:
    """The sizes with as many layers: those of its own, over and over."""
    sizes: dict[str, Any] = {name: stretch(getattr(geometry, name), num_layers) for name in PER_LAYER}
    return replace(geometry, num_layers=num_layers, **sizes)


def stretch(values: tuple[int, ...] | None, num_layers: int) -> tuple[int, ...] | None:
    """One entry for each layer."""
    return None if values is None else tuple(values[i % len(values)] for i in range(num_layers))


def _table(table: ScoreTable | None, layers_of: Callable[[NDArray[Any]], NDArray[Any]]) -> ScoreTable | None:
    return None if table is None else table.take(layers_of)
