"""What a model routes while it runs, as the arrays that the decision core reads, and in the end as a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from policies.needs import Need
from policies.state import DROPPED
from sim.assembly.combinations import check_combination
from sim.assembly.needs import check_cpu, initial_memories, wants_weights
from sim.assembly.replay import costs_of
from sim.config import RunConfig
from sim.engine.decision.device import Device, DeviceSpec
from sim.machine.capacity import CacheConfig, make_pools
from sim.machine.durations import tabulate
from sim.machine.hardware import Hardware
from sim.workload.rows import NOTHING
from traces.errors import UserError
from traces.format.softmax import softmax
from traces.format.trace import Geometry, ScoreTable, Trace
from traces.recording.tap import Routing

if TYPE_CHECKING:
    import torch


def check_live(policy: Policy, hardware: Hardware) -> None:
    """Raises UserError where a policy needs what a running model cannot give."""
    for need, rule in policy.needs().items():
        if need.unless_running is not None:
            raise UserError(f"policy {policy.name}: {rule} {need.unless_running}, so it cannot decide while generating")
    check_cpu(policy, hardware)


def live_spec(
    geometry: Geometry,
    policy: Policy,
    hardware: Hardware,
    cache: CacheConfig,
    max_tokens: int,
    seed: int,
    others: Trace | None,
) -> DeviceSpec:
    """The device of a running model of these sizes."""
    check_combination(policy, cache, RunConfig())
    durations = tabulate(geometry, hardware, max_tokens, pieces=policy.prefetch.chunks())
    assert geometry.expert_bytes is not None
    return DeviceSpec(
        policy=policy,
        pools=make_pools(cache, policy, geometry.expert_bytes, geometry.num_experts, others),
        num_layers=geometry.num_layers,
        num_experts=geometry.num_experts,
        top_k=geometry.top_k,
        max_tokens=max_tokens,
        costs=costs_of(durations, policy, timed=True),
        low_size=np.zeros(geometry.num_layers, np.int64),
        memories=initial_memories(policy, geometry, None, others),
        launch_ns=durations.expert_launch_ns,
        has_scores=Need.GATE_SCORES in policy.needs(),
        staging_slots=hardware.staging_slots,
        warm=cache.warm or policy.eviction.static,
        seed=seed,
    )


class LiveStep:
    """One forward pass of B tokens: ids, weights [B, L, K], scores [B, L, E], lookahead [B, L-1, 1, E], filled layer by
    layer; ``logits`` [B, L, E] and ``ahead`` [B, L-1, E] are kept for the trace."""

    def __init__(self, geometry: Geometry, tokens: int, weights: bool, scores: bool, ahead: str | None) -> None:
        layers, experts, ranks = geometry.num_layers, geometry.num_experts, geometry.top_k
        self.ids = np.zeros((tokens, layers, ranks), np.int32)
        self.weights = np.zeros((tokens, layers, ranks), np.float32)
        self.scores = np.zeros((tokens if scores else 0, layers, experts), np.float32)
        self.logits: NDArray[np.float32] = np.full((tokens, layers, experts), np.nan, np.float32)
        rows = tokens if ahead else 0
        self.ahead = np.zeros((rows, layers - 1, experts), np.float32)
        self.lookahead = np.zeros((rows, layers - 1, 1, experts), np.float32)
        self.variant = ahead
        self.rules_see = self.weights if weights else NOTHING
        self.weight_type: Any = None

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """As ``sim.workload.rows.BlockData.rows``; the core reads a layer when it begins."""
        return self.ids, self.rules_see, self.scores, self.lookahead, np.empty((0, 0, 0), np.int64)

    def put(self, routing: Routing) -> None:
        """Note a layer's routing, a token's experts by falling weight."""
        layer = routing.layer
        ids = routing.topk_ids.detach().cpu().numpy()
        weights = routing.topk_weights.detach().float().cpu().numpy()
        self.weight_type = routing.topk_weights.dtype
        order = np.argsort(-weights, axis=-1, kind="stable")
        self.ids[:, layer] = np.take_along_axis(ids, order, -1)
        self.weights[:, layer] = np.take_along_axis(weights, order, -1)
        if routing.router_logits is not None:
            logits = _floats(routing.router_logits)
            self.logits[:, layer] = logits
            if self.scores.shape[0]:
                self.scores[:, layer] = softmax(logits)
        elif self.scores.shape[0]:
            raise UserError("the policy needs gate scores, and the router of this model cannot be found")
        if self.variant == "lookahead_before" and routing.lookahead is not None:
            self._put_ahead(layer, routing.lookahead)

    def put_after(self, layer: int, logits: torch.Tensor, device: Device) -> None:
        """Note what the next layer's gate says to the residual behind a layer, just before the layer's end."""
        self._put_ahead(layer, logits)
        device.arrays["lookahead"][0, : len(self.ids)] = self.lookahead[:, layer, 0]

    def _put_ahead(self, layer: int, logits: torch.Tensor) -> None:
        self.ahead[:, layer] = _floats(logits)
        self.lookahead[:, layer, 0] = softmax(self.ahead[:, layer])

    def executed(self, layer: int, device: Device) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """What the policy lets run, ids and weights [B, K].

        A substitute takes its own gate score, scaled so that the token's weights keep their sum; where no scores are
        known it inherits the weight of the expert that it replaces. A dropped rank has weight 0.
        """
        tokens = len(self.ids)
        ids = device.arrays["executed_ids"][:tokens].copy()
        routed, weights = self.ids[:, layer], self.weights[:, layer].copy()
        changed = (ids != routed).any(axis=1)
        if not changed.any():
            return ids, weights
        gone = ids == DROPPED
        if self.scores.shape[0]:
            own = np.take_along_axis(self.scores[:, layer], np.where(gone, 0, ids).astype(np.int64), -1)
            own[gone] = 0.0
            total = np.maximum(own.sum(axis=1, keepdims=True), np.float32(1e-30))
            weights[changed] = (own / total * weights.sum(axis=1, keepdims=True))[changed]
        weights[gone] = 0.0
        return ids, weights


def _floats(logits: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = logits.detach().float().cpu().numpy()
    return found.reshape(-1, found.shape[-1])


class LiveRouting:
    """Makes the steps of a run, and a trace of them all."""

    def __init__(self, geometry: Geometry, policy: Policy) -> None:
        needs = policy.needs()
        self.geometry, self.scores, self.weights = geometry, Need.GATE_SCORES in needs, wants_weights(policy)
        self.ahead = next((need for need in needs if need.startswith("lookahead_")), None)

    def step(self, tokens: int) -> LiveStep:
        """The next forward pass."""
        return LiveStep(self.geometry, tokens, self.weights, self.scores, self.ahead)

    def trace(self, steps: list[LiveStep], lengths: list[int], prompts: list[int], phases: list[int]) -> Trace:
        """Everything that was routed, in float32."""
        logits = np.concatenate([step.logits for step in steps])
        ahead = ScoreTable(np.concatenate([step.ahead for step in steps])) if self.ahead else None
        return Trace(
            geometry=self.geometry,
            topk_ids=np.concatenate([step.ids for step in steps]).astype(np.uint16),
            topk_weights=np.concatenate([step.weights for step in steps]),
            router_logits=None if np.isnan(logits).any() else ScoreTable(logits),
            lookahead_before=ahead if self.ahead == "lookahead_before" else None,
            lookahead_after=ahead if self.ahead == "lookahead_after" else None,
            request_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            prompt_len=np.array(prompts, np.int32),
            phase=np.array(phases, np.uint8),
            ranked=True,
            provenance={"source": "routed by the model while its experts were offloaded"},
        )
