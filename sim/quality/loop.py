"""What every closed-loop pass shares: the hooked model, the device that decides, and the router output it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DROPPED
from sim.engine.decision.device import DeviceSpec
from sim.quality.drive import AS_RULED
from sim.quality.live import LiveDevice
from sim.quality.weights import OWN, GateRule
from traces.format.softmax import softmax
from traces.recording.moe_layers import MoELayer
from traces.recording.tap import Routing

if TYPE_CHECKING:
    import torch

NO_TIMES = np.empty((0, 0, 0), np.int64)
NO_AHEAD = np.empty((0, 0, 0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class Reads:
    """What of the router output a policy's rules read. ``lookahead``: None, "lookahead_before" or "lookahead_after"."""

    weights: bool
    scores: bool
    lookahead: str | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One closed-loop pass: what stands in for what the rule replaces, with which weights, in which layer (None: all).

    The cache and the rule's decisions follow the rule's own choice in every variant: variants differ only in what is
    executed in place of a replaced expert.
    """

    name: str
    stand_in: int = AS_RULED
    scheme: str = OWN
    layer: int | None = None


@dataclass(slots=True)
class Loop:
    """A model and the devices that decide in it. ``resets``: every window finds cache and rules as at the start.

    ``live`` decides; ``clock`` replays what a parallel pass gave, for its times.
    """

    model: torch.nn.Module
    layers: tuple[MoELayer, ...]
    live: LiveDevice
    clock: LiveDevice
    gate: GateRule
    reads: Reads
    resets: bool

    @property
    def spec(self) -> DeviceSpec:
        return self.live.spec

    @property
    def torch_device(self) -> Any:
        return next(self.model.parameters()).device


class StepArrays:
    """Router output of T tokens as the decision core reads it, filled layer by layer; experts best first."""

    def __init__(self, tokens: int, spec: DeviceSpec, reads: Reads) -> None:
        layers, ranks, experts = spec.num_layers, spec.top_k, spec.num_experts
        self.reads = reads
        self.ids = np.zeros((tokens, layers, ranks), np.int32)
        self.weights = np.zeros((tokens if reads.weights else 0, layers, ranks), np.float32)
        self.scores = np.zeros((tokens if reads.scores else 0, layers, experts), np.float32)
        ahead = (tokens, layers - 1, 1, experts) if reads.lookahead and layers > 1 else (0, 0, 0, 0)
        self.lookahead = np.zeros(ahead, np.float32)

    def all(self) -> tuple[NDArray[Any], ...]:
        """In the order of ``sim.workload.rows.BlockData``."""
        return (self.ids, self.weights, self.scores, self.lookahead, NO_TIMES)

    def fill(self, routed: Routed, rows: slice) -> None:
        """Take in one layer of some rows of a forward pass."""
        self.ids[:, routed.layer] = routed.ids[rows]
        if self.reads.weights:
            self.weights[:, routed.layer] = routed.weights[rows]
        if routed.scores is not None:
            self.scores[:, routed.layer] = routed.scores[rows]
        if routed.lookahead is not None and self.lookahead.size:
            self.lookahead[:, routed.layer, 0] = routed.lookahead[rows]

    def fill_ahead(self, layer: int, logits: torch.Tensor) -> None:
        """Take in the next layer's gate as known at the end of a layer."""
        self.lookahead[:, layer, 0] = softmax(as_array(logits))


@dataclass(frozen=True, slots=True)
class Routed:
    """One layer's routing as arrays: ids and weights [T, K] best first, ``order`` [T, K] puts ranks in that order."""

    layer: int
    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    order: NDArray[np.int64] | None
    scores: NDArray[np.float32] | None
    lookahead: NDArray[np.float32] | None

    @classmethod
    def of(cls, routing: Routing, reads: Reads) -> Routed:
        """Arrays of a routing, with the softmax of the logits that are read."""
        ids = routing.topk_ids.cpu().numpy().astype(np.int32)
        weights, order = as_array(routing.topk_weights), None
        if weights.shape[1] > 1 and bool((np.diff(weights, axis=-1) > 0).any()):
            order = np.argsort(-weights, axis=-1, kind="stable")
            ids, weights = np.take_along_axis(ids, order, -1), np.take_along_axis(weights, order, -1)
        scores = (
            softmax(as_array(routing.router_logits)) if reads.scores and routing.router_logits is not None else None
        )
        ahead = routing.lookahead if reads.lookahead == "lookahead_before" else None
        return cls(routing.layer, ids, weights, order, scores, None if ahead is None else softmax(as_array(ahead)))

    def unsorted(self, executed: NDArray[np.int32]) -> NDArray[np.int32]:
        """``executed`` [T, K] in the model's own order of ranks."""
        if self.order is None:
            return executed
        found = np.empty_like(executed)
        np.put_along_axis(found, self.order, executed, axis=-1)
        return found


def as_array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """A float32 array of a tensor anywhere."""
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return np.ascontiguousarray(array)


def replacement(
    gate: GateRule, routing: Routing, routed: Routed, executed: NDArray[np.int32], scheme: str
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What the tap executes in place of a routing; None where that is the routing itself."""
    if np.array_equal(executed, routed.ids):
        return None
    import torch

    chosen = torch.from_numpy(routed.unsorted(executed).astype(np.int64)).to(routing.topk_ids.device)
    return gate.replacement(routing, routing.topk_ids.long(), chosen, scheme)


def changed_share(ids: NDArray[np.int32], executed: NDArray[np.int32]) -> tuple[float, float]:
    """Shares of (token, layer, rank) that execute another expert, and none."""
    dropped = executed == DROPPED
    return float(((executed != ids) & ~dropped).mean()), float(dropped.mean())
