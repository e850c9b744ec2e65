"""The router output of a running model as the arrays that the decision core reads, filled layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from sim.assembly.needs import wants_weights
from sim.engine.decision.device import DeviceSpec
from sim.workload.rows import NO_ROWS
from traces.errors import UserError
from traces.format.softmax import softmax
from traces.format.trace import Geometry
from traces.recording.tap import Routing

if TYPE_CHECKING:
    import torch

NO_TIMES = np.empty((0, 0, 0), np.int64)
NO_AHEAD = np.empty((0, 0, 0, 0), np.float32)
ARRAYS = ("ids", "weights", "scores", "lookahead", "logits", "ahead")


@dataclass(frozen=True, slots=True)
class Reads:
    """What of the router output is read. ``lookahead``: None, "lookahead_before" or "lookahead_after".

    ``recorded``: weights and logits are kept for a trace too, whether or not a rule reads them.
    """

    weights: bool
    scores: bool
    lookahead: str | None = None
    recorded: bool = False

    @classmethod
    def of(cls, policy: Policy, recorded: bool = False) -> Reads:
        """What the rules of a policy read."""
        needs = policy.needs()
        lookahead = next((need for need in needs if need.startswith("lookahead_")), None)
        return cls(wants_weights(policy), "gate_scores" in needs, lookahead, recorded)


@dataclass(frozen=True, slots=True)
class Routed:
    """One layer's routing as arrays: ids and weights [T, K] best first, ``order`` [T, K] puts ranks in that order.

    ``logits`` [T, E] and ``ahead`` [T, E], the next layer's gate, only where they are read.
    """

    layer: int
    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    order: NDArray[np.int64] | None
    logits: NDArray[np.float32] | None
    ahead: NDArray[np.float32] | None

    @classmethod
    def of(cls, routing: Routing, reads: Reads) -> Routed:
        """The arrays of a routing. Raises: UserError where rules read gate scores and there are no logits."""
        ids = routing.topk_ids.detach().cpu().numpy().astype(np.int32)
        weights, order = as_array(routing.topk_weights), None
        if weights.shape[1] > 1 and bool((np.diff(weights, axis=-1) > 0).any()):
            order = np.argsort(-weights, axis=-1, kind="stable")
            ids, weights = np.take_along_axis(ids, order, -1), np.take_along_axis(weights, order, -1)
        if reads.scores and routing.router_logits is None:
            raise UserError("the policy needs gate scores, and the router of this model cannot be found")
        logits = routing.router_logits if reads.scores or reads.recorded else None
        ahead = routing.lookahead if reads.lookahead == "lookahead_before" else None
        return cls(
            routing.layer,
            ids,
            weights,
            order,
            None if logits is None else as_array(logits),
            None if ahead is None else as_array(ahead),
        )

    def in_router_order(self, executed: NDArray[np.int32]) -> NDArray[np.int32]:
        """``executed`` [T, K] with the ranks as the router returned them."""
        if self.order is None:
            return executed
        unsorted = np.empty_like(executed)
        np.put_along_axis(unsorted, self.order, executed, axis=-1)
        return unsorted


class StepArrays:
    """Router output of T tokens as the decision core reads it, experts best first: ids and weights [T, L, K], scores
    [T, L, E], lookahead [T, L - 1, 1, E]. Where it is recorded also logits [T, L, E] (NaN: not known) and ``ahead``
    [T, L - 1, E]."""

    def __init__(self, tokens: int, sizes: DeviceSpec | Geometry, reads: Reads) -> None:
        layers, ranks, experts = sizes.num_layers, sizes.top_k, sizes.num_experts
        recorded = tokens if reads.recorded else 0
        ahead = reads.lookahead is not None and layers > 1
        self.reads = reads
        self.ids = np.zeros((tokens, layers, ranks), np.int32)
        self.weights = np.zeros((tokens if reads.weights else recorded, layers, ranks), np.float32)
        self.scores = np.zeros((tokens if reads.scores else 0, layers, experts), np.float32)
        self.lookahead = np.zeros((tokens, layers - 1, 1, experts), np.float32) if ahead else NO_AHEAD
        self.logits: NDArray[np.float32] = np.full((recorded, layers, experts), np.nan, np.float32)
        self.ahead = np.zeros((recorded if ahead else 0, layers - 1, experts), np.float32)

    def all(self) -> tuple[NDArray[Any], ...]:
        """In the order of ``sim.workload.rows.BlockData``; the core reads a layer when it begins."""
        weights = self.weights if self.reads.weights else NO_ROWS
        return (self.ids, weights, self.scores, self.lookahead, NO_TIMES)

    def part(self, rows: slice) -> StepArrays:
        """Some of the rows, in the same memory."""
        return self._made(self.reads, {name: getattr(self, name)[rows] for name in ARRAYS})

    def fill(self, routed: Routed, rows: slice = slice(None)) -> None:
        """Take in one layer of some rows of a forward pass."""
        layer = routed.layer
        self.ids[:, layer] = routed.ids[rows]
        if self.weights.size:
            self.weights[:, layer] = routed.weights[rows]
        if routed.logits is not None:
            if self.scores.size:
                self.scores[:, layer] = softmax(routed.logits[rows])
            if self.logits.size:
                self.logits[:, layer] = routed.logits[rows]
        if routed.ahead is not None:
            self._fill_ahead(layer, routed.ahead[rows])

    def fill_ahead(self, layer: int, logits: torch.Tensor) -> None:
        """Take in the next layer's gate as known at the end of a layer."""
        self._fill_ahead(layer, as_array(logits))

    def _fill_ahead(self, layer: int, logits: NDArray[np.float32]) -> None:
        if self.lookahead.size:
            self.lookahead[:, layer, 0] = softmax(logits)
        if self.ahead.size:
            self.ahead[:, layer] = logits

    @classmethod
    def joined(cls, steps: list[StepArrays]) -> StepArrays:
        """The router output of several steps as one."""
        return cls._made(
            steps[0].reads, {name: np.concatenate([getattr(step, name) for step in steps]) for name in ARRAYS}
        )

    @classmethod
    def _made(cls, reads: Reads, arrays: dict[str, NDArray[Any]]) -> StepArrays:
        made = cls.__new__(cls)
        made.reads = reads
        for name, array in arrays.items():
            setattr(made, name, array)
        return made


def as_array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """A float32 array [T, ...] of a tensor anywhere, of whatever batch shape."""
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return np.ascontiguousarray(array.reshape(-1, array.shape[-1]))
