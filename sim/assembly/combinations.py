"""Combinations of policy and cache knobs that would run but mean nothing: refused in one sentence."""

from __future__ import annotations

from policies.base import Assignment, Eviction, Policy, Prediction, Prefetch, Substitution
from policies.needs import Need
from sim.config import PrefillConfig, RunConfig, SessionConfig, SpeculateConfig
from sim.engine.decision.device import decides
from sim.machine.capacity import CacheConfig
from sim.machine.host_store import HostStore
from sim.machine.machine import Machine
from traces.errors import UserError


def has_clock(cache: CacheConfig, run: RunConfig) -> bool:
    """Whether a replay is timed: held overflow and single accesses are defined without a clock only."""
    return run.engine != "untimed" and not cache.holds and not cache.sequential


def check_combination(
    policy: Policy, cache: CacheConfig, run: RunConfig, speculate: SpeculateConfig | None = None
) -> None:
    """Raises UserError naming the two knobs that contradict each other."""
    predicts = decides(policy.prediction, Prediction, "predict")
    prefetches = decides(policy.prefetch, Prefetch, "choose")
    if prefetches and policy.prefetch.promotes:
        _check_promotion(policy, predicts)
    elif prefetches and not predicts and not policy.prefetch.admits:
        raise UserError(
            f"policy {policy.name}: {type(policy.prefetch).__name__} has no prediction to choose from: "
            "set policy/prediction, or policy/prefetch=none"
        )
    if prefetches and policy.eviction.static:
        raise UserError(
            f"policy {policy.name}: {type(policy.eviction).__name__} never changes what is resident, so nothing can be "
            "prefetched: set policy/prefetch=none"
        )
    if not policy.allocation.uniform and cache.scope == "global":
        raise UserError(
            f"cache.scope=global has one pool for all layers, and {type(policy.allocation).__name__} splits the "
            "capacity over them: use cache.scope=layer, or policy/allocation=uniform"
        )
    for knob in ("timeline", "what_if"):
        if getattr(run, knob) and not has_clock(cache, run):
            raise UserError(
                f"{knob}=true: this replay has no clock (engine=untimed, cache.overflow=hold or sequential)"
            )
    if cache.sequential and speculate is not None and speculate.tokens:
        raise UserError(
            f"speculate.tokens={speculate.tokens}: its step demands the experts of all its tokens at once, and "
            "cache.semantics=sequential replays single accesses: use cache.semantics=step"
        )
    if cache.sequential:
        _check_sequential(policy)
    if cache.holds:
        _check_hold(policy)


def check_prefill(policy: Policy, cache: CacheConfig, run: RunConfig, prefill: PrefillConfig) -> None:
    """Raises UserError where prompts cannot go past the cache."""
    if not prefill.goes_past:
        return
    if cache.holds or cache.sequential:
        knob = f"overflow={cache.overflow}" if cache.holds else f"semantics={cache.semantics}"
        raise UserError(f"prefill.order={prefill.order}: cache.{knob} knows no staging slots; use expert")
    if prefill.streams and policy.prefetch.promotes:
        raise UserError(
            f"policy {policy.name}: {type(policy.prefetch).__name__} copies beside every step, and "
            "prefill.order=stream takes the whole link; use another order"
        )
    if prefill.streams and run.timeline:
        raise UserError("prefill.order=stream: a timeline does not show streamed layers; use timeline=false")


def check_auto(policy: Policy, cache: CacheConfig) -> None:
    """Raises UserError where the capacity cannot follow the context."""
    if not cache.auto:
        return
    if not policy.allocation.uniform:
        raise UserError(
            f"cache.bytes=auto gives every layer the same bytes, and {type(policy.allocation).__name__} of policy "
            f"{policy.name} splits them: use policy/allocation=uniform"
        )
    if policy.write_back != "none":
        raise UserError(
            f"cache.bytes=auto: what leaves for K and V is not written back, and policy {policy.name} has "
            f"write_back={policy.write_back}; use policy.write_back=none"
        )


def check_tiers(policy: Policy, host: HostStore, prefill: PrefillConfig, machine: Machine) -> None:
    """Raises UserError where a rule cannot be replayed with storage behind host memory, or a second GPU as a store."""
    behind = f"hardware {machine.hardware.name} with storage behind host memory"
    if host.reading.peer is not None:
        behind = "devices.role=store"
    if prefill.streams:
        raise UserError(f"{behind}: prefill.order=stream copies whole layers from host memory; use another order")
    if policy.prefetch.chunks() > 1:
        raise UserError(
            f"{behind}: {type(policy.prefetch).__name__} of policy {policy.name} brings experts in chunks, and "
            "what comes from the last tier comes whole; use policy/prefetch=none or another"
        )
    if Need.LOW_PRECISION in policy.needs():
        raise UserError(
            f"{behind}: where the low-precision copies of policy {policy.name} would lie is not modelled; use another "
            "substitution"
        )
    if host.exclusive and policy.write_back == "none":
        raise UserError(
            f"host.inclusion=exclusive: what leaves the GPU has to come back, and policy {policy.name} writes no "
            "victims back; use policy.write_back=serial or overlap, or host.inclusion=inclusive"
        )
    if not machine.hardware.unified_memory:
        return
    if Need.CPU in policy.needs():
        raise UserError(
            f"hardware {machine.hardware.name} has unified memory: slots hold what GPU and CPU read alike, and "
            f"{type(policy.assignment).__name__} of policy {policy.name} computes on the CPU what has none; use "
            "policy/assignment=link_only"
        )
    if policy.write_back != "none":
        raise UserError(
            f"hardware {machine.hardware.name} has unified memory: there is nowhere to write victims back to; use "
            "policy.write_back=none"
        )


def check_session(policy: Policy, cache: CacheConfig, run: RunConfig, session: SessionConfig) -> None:
    """Raises UserError where the turns of chats cannot be replayed so."""
    if not session.cuts:
        return
    if run.batch_size > 1:
        raise UserError(
            f"batch_size={run.batch_size}: the turns of chats (session.*) are replayed one after the other; use 1, "
            "with session.interleave=true for chats that take turns"
        )
    if session.interleave and not session.keeps_experts:
        raise UserError(
            f"session.keep={session.keep}: with session.interleave=true chats push each other's experts out; use all "
            "or experts"
        )
    if session.interleave and cache.resets:
        raise UserError(f"cache.reset={cache.reset}: with session.interleave=true chats share the cache; use never")
    if Need.FORECAST in policy.needs():
        raise UserError(
            f"policy {policy.name}: {policy.needs()[Need.FORECAST]} reads requests from their first token on, and "
            "session.* cuts them into turns; use a policy without a trained prediction"
        )


def _check_promotion(policy: Policy, predicts: bool) -> None:
    """Background admission chooses by what has run, and what it takes from the CPU has to run there."""
    rule = type(policy.prefetch).__name__
    if predicts:
        raise UserError(
            f"policy {policy.name}: {rule} brings experts for later steps and asks no prediction, so that "
            f"{type(policy.prediction).__name__} would do nothing: set policy/prediction=none"
        )
    if Need.CPU in policy.prefetch.all_needs() and Need.CPU not in policy.assignment.all_needs():
        raise UserError(
            f"policy {policy.name}: {rule} brings what the CPU has computed, and {type(policy.assignment).__name__} "
            "gives it nothing: set policy/assignment=cpu_and_promote"
        )


def _check_sequential(policy: Policy) -> None:
    """One access at a time there is no token, so only rules that see experts alone make sense."""
    whole = {
        "prefetch": decides(policy.prefetch, Prefetch, "choose"),
        "substitution": decides(policy.substitution, Substitution, "substitute"),
        "assignment": decides(policy.assignment, Assignment, "assign"),
        "eviction": Need.GATE_SCORES in policy.eviction.all_needs(),
    }
    for part, active in whole.items():
        if active:
            raise UserError(
                f"cache.semantics=sequential replays single accesses, and policy/{part} of {policy.name} decides over "
                "whole tokens: use cache.semantics=step, or a policy without it"
            )


def _check_hold(policy: Policy) -> None:
    if policy.residency == "none":
        raise UserError(f"cache.overflow=hold keeps every step, and policy {policy.name} keeps nothing: use stream")
    if policy.eviction.after_step:
        raise UserError(
            f"cache.overflow=hold keeps every step whole, and {type(policy.eviction).__name__} of policy {policy.name} "
            "chooses what stays of it: use belady_admit, or cache.overflow=stream"
        )
    if decides(policy.eviction, Eviction, "bypass"):
        raise UserError(
            f"cache.overflow=hold admits every miss, and {type(policy.eviction).__name__} of policy {policy.name} may "
            "refuse: use belady_admit, or cache.overflow=stream"
        )
