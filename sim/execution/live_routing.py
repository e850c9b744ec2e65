"""The device specification of a model that generates, and its recorded routing as a trace."""

from __future__ import annotations

import numpy as np

from policies.base import Policy
from policies.needs import Need
from sim.assembly.combinations import check_combination
from sim.assembly.needs import check_cpu, initial_memories, profile_of
from sim.assembly.replay import DeviceSetup, costs_of
from sim.config import RunConfig
from sim.engine.decision.device import DeviceSpec
from sim.live.router_output import StepArrays
from sim.machine.capacity import make_pools
from sim.machine.durations import tabulate
from sim.machine.hardware import Hardware
from traces.errors import UserError
from traces.format.trace import Geometry, ScoreTable, Trace


def check_live(policy: Policy, hardware: Hardware) -> None:
    """Raises UserError where a policy needs what a running model cannot give."""
    for need, rule in policy.needs().items():
        if need.unless_running is not None:
            raise UserError(f"policy {policy.name}: {rule} {need.unless_running}, so it cannot decide while generating")
    check_cpu(policy, hardware)


def live_spec(geometry: Geometry, setup: DeviceSetup, max_tokens: int, others: Trace | None) -> DeviceSpec:
    """The device of a running model of these sizes. Of ``setup.run`` only the seed counts."""
    policy, machine, cache = setup.policy, setup.machine, setup.cache
    check_combination(policy, cache, RunConfig())
    chunks, resident = policy.prefetch.chunks(), policy.residency == "all"
    durations = tabulate(geometry, machine, max_tokens, chunks=chunks, resident=resident)
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
        staging_slots=machine.runtime.staging_slots,
        warm=cache.warm or policy.eviction.static,
        profile=profile_of(cache, others),
        seed=setup.run.seed,
    )


def routed_trace(
    geometry: Geometry,
    score_function: str | None,
    steps: list[StepArrays],
    lengths: list[int],
    prompts: list[int],
    phases: list[int],
) -> Trace:
    """The routing of recorded steps as a trace, in float32: requests of ``lengths`` tokens, ``prompts`` of them given,
    and the phase of every token."""
    routed, lookahead = StepArrays.joined(steps), steps[0].reads.lookahead
    ahead = ScoreTable(routed.ahead) if lookahead else None
    return Trace(
        geometry=geometry,
        topk_ids=routed.ids.astype(np.uint16),
        topk_weights=routed.weights,
        router_logits=None if np.isnan(routed.logits).any() else ScoreTable(routed.logits),
        lookahead_before=ahead if lookahead == "lookahead_before" else None,
        lookahead_after=ahead if lookahead == "lookahead_after" else None,
        request_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompt_len=np.array(prompts, np.int32),
        phase=np.array(phases, np.uint8),
        ranked=True,
        score_function=score_function,
        provenance={"source": "routed by the model while its experts were offloaded"},
    )
