"""`layers=cycle`: the recorded layers over and over, to the depth of the model whose sizes are replayed."""

from __future__ import annotations

from policies.base import Policy
from policies.needs import Need
from sim.config import CYCLE
from sim.formatting import repeated
from sim.machine.geometry import known_layers
from traces.errors import UserError
from traces.format.layers import repeat_layers
from traces.format.trace import Geometry, Trace

BETWEEN_LAYERS = {
    Need.LOOKAHEAD_BEFORE: "reads recorded gates of the next layer, and no recording has those between its last layer "
    "and its first: use policy/prediction=none policy/prefetch=none",
    Need.LOOKAHEAD_AFTER: "reads recorded gates of the next layer, and no recording has those between its last layer "
    "and its first: use policy/prediction=none policy/prefetch=none",
    Need.FORECAST: "is a network trained on the layers that were recorded: use policy/prediction=none "
    "policy/prefetch=none",
    Need.EXPERT_SIMILARITY: "reads measured similarities of the experts of the layers that were recorded: use "
    "policy/substitution=none",
}
"""What the layers of a model have that repeated ones lack, as the end of a sentence that begins with the rule."""


def missing_layers(layers: str, trace: Trace, geometry: Geometry) -> int | None:
    """The depth to which ``layers`` asks to repeat a trace's layers; None where they stay as they are.

    ``geometry``: sizes of the model. Raises: UserError where its depth is not known or the trace has more layers.
    """
    if layers != CYCLE:
        return None
    depth = known_layers(geometry)
    if depth is None:
        raise UserError(
            f"layers=cycle: how many MoE layers {geometry.model} has is not known: choose its sizes by model=NAME, "
            "or layers=recorded"
        )
    if trace.num_layers > depth:
        raise UserError(
            f"layers=cycle: the trace has {trace.num_layers} MoE layers, more than the {depth} of {geometry.model}, so "
            "there is nothing to repeat: use layers=recorded"
        )
    return depth if trace.num_layers < depth else None


def check_repeatable(policy: Policy) -> None:
    """Raises: UserError naming a rule that needs what repeated layers lack."""
    for need, rule in policy.needs().items():
        if need in BETWEEN_LAYERS:
            raise UserError(f"layers=cycle: policy {policy.name}: {rule} {BETWEEN_LAYERS[need]}, or layers=recorded")


def to_depth(trace: Trace, others: Trace | None, depth: int) -> tuple[Trace, Trace | None, str]:
    """(both traces with ``depth`` layers, what is ESTIMATED by that). Raises: UserError as `repeat_layers`."""
    note = (
        f"layers {repeated(depth, trace.num_layers)}: the {trace.num_layers} recorded MoE layers stand for all {depth} "
        "of the model (layers=cycle), so that layers of the same token route alike more often than a model's do"
    )
    return repeat_layers(trace, depth), None if others is None else repeat_layers(others, depth), note
