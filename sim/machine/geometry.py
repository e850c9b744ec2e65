"""Whose sizes a replay uses: the trace's own, or another model's under its routing."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from sim.config import TraceConfig
from sim.machine.capacity import DEFAULT_FRACTION
from sim.machine.model import Dimensions, dimensions_from_config, geometry, load_dimensions, load_geometry
from traces.errors import UserError
from traces.format.layers import stretched
from traces.format.trace import Geometry, Trace

FALLBACK = "deepseek_moe_16b"
_chosen: dict[str, Dimensions] = {}
"""The models whose sizes were chosen by hand in this process, which may be no files of `conf/model`."""


def resolve_geometry(
    trace: Trace, trace_config: TraceConfig, model: dict[str, Any]
) -> tuple[Geometry, list[str], list[str]]:
    """(geometry with the trace's layers and experts, sentences on what is ESTIMATED, warnings).

    ``model=auto``: the embedded trace's assumed model, else the trace's own sizes completed by the model file of that
    name; a trace that knows no sizes at all takes those of deepseek_moe_16b and says so. ``model=trace``: the trace's
    own sizes only. ``model=NAME``: that model's sizes.
    """
    name = model.get("name")
    if name == "trace":
        return trace.geometry, [], []
    if name != "auto":
        if "expert_ffn" not in model:
            raise UserError(
                "the chosen model file says how to record a model, not its sizes: use model=trace or a model's name"
            )
        dimensions = dimensions_from_config(model)
        chosen = geometry(dimensions)
        _chosen[chosen.model] = dimensions
        borrowed, estimated, warnings = _borrow(trace, chosen)
        return borrowed, [*estimated, *_left_out(dimensions)], warnings
    if trace_config.path is None and trace_config.geometry is not None:
        return _borrow(trace, load_geometry(trace_config.geometry))
    known = _known_sizes(trace.geometry.model)
    if known is not None and _same_shape(known, trace.geometry):
        return _complete(trace.geometry, known)
    if trace.geometry.expert_bytes is not None:
        return trace.geometry, [], []
    borrowed, estimated, warnings = _borrow(trace, known or load_geometry(FALLBACK))
    return (
        borrowed,
        estimated,
        [f"the trace states no sizes: took those of {borrowed.model}; choose with model=NAME", *warnings],
    )


def _left_out(dimensions: Dimensions) -> list[str]:
    """What sizes read from a model's own file leave out, as their source says after the name of the file."""
    file, *notes = dimensions.source.split("; ")
    return [f"sizes of {dimensions.name}: {note}" for note in notes] if file.startswith("its ") else []


def known_layers(geometry: Geometry) -> int | None:
    """MoE layers of the model that sizes are named after; None where no file describes that model."""
    if geometry.model in _chosen:
        return _chosen[geometry.model].num_layers
    known = _known_sizes(geometry.model)
    return None if known is None else known.num_layers


def model_layers(geometry: Geometry) -> int:
    """The same; those of the sizes where no file describes that model."""
    return known_layers(geometry) or geometry.num_layers


def dimensions_of(geometry: Geometry) -> Dimensions | None:
    """The model that sizes are named after; None where neither a file nor this process's choice describes it."""
    if geometry.model in _chosen:
        return _chosen[geometry.model]
    try:
        return load_dimensions(geometry.model)
    except UserError:
        return None


def _known_sizes(name: str) -> Geometry | None:
    try:
        return load_geometry(name)
    except UserError:
        return None


def _same_shape(a: Geometry, b: Geometry) -> bool:
    return (a.num_layers, a.num_experts) == (b.num_layers, b.num_experts)


def _complete(own: Geometry, known: Geometry) -> tuple[Geometry, list[str], list[str]]:
    """The trace's own sizes, with what it does not state taken from the model's file."""
    absent = [f.name for f in fields(Geometry) if getattr(own, f.name) is None and getattr(known, f.name) is not None]
    if not absent:
        return own, [], []
    note = f"{', '.join(absent)} of {own.model} come from the model file, not from the trace"
    return replace(own, **{name: getattr(known, name) for name in absent}), [note], []


def _borrow(trace: Trace, model: Geometry) -> tuple[Geometry, list[str], list[str]]:
    """Another model's sizes per layer under the trace's layers and experts."""
    own = trace.geometry
    if own.model == model.model and _same_shape(own, model):
        return model, [], []
    estimated = [
        f"sizes of {model.model} ({model.num_layers} MoE layers) under the routing of {own.model} "
        f"({trace.recorded_layers or own.num_layers} MoE layers): times are for {own.num_layers} layers"
    ]
    own_units = DEFAULT_FRACTION * own.num_experts / own.top_k
    units = DEFAULT_FRACTION * model.num_experts / model.top_k
    warnings = []
    if not 2 / 3 <= own_units / units <= 3 / 2:
        warnings.append(
            f"a quarter of the experts is {own_units:.3g} times top_k in the trace, {units:.3g} times in {model.model}"
        )
    sizes = stretched(model, own.num_layers)
    return replace(sizes, num_experts=own.num_experts, top_k=own.top_k), estimated, warnings
