"""The SimPy engine and the compiled one: every decision, every timestamp, on everything both support."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policies.base import Policy, Prefetch
from policies.eviction.belady import Belady
from policies.needs import Need
from policies.prediction.trained import TrainedPrediction
from policies.prefetch.layers_ahead import LayersAhead
from policies.prefetch.top_score import TopScore
from sim.assembly.build import in_session
from sim.assembly.catalogue import load_part, rule_names
from sim.assembly.replay import DeviceSetup, assemble
from sim.assembly.room import memory_of
from sim.config import ORDERS, PrefillConfig, RunConfig, SessionConfig, SpeculateConfig
from sim.engine.decision.device import BASES, decides
from sim.engine.invariants import check_finished
from sim.machine.capacity import CacheConfig
from sim.machine.devices import DevicesConfig
from sim.machine.host_store import HostConfig
from sim.metrics.step_table import COLUMNS, StepTable
from sim.workload.chats import as_session
from tests.support.odd_rules import CoinSide, Eager, Guess, InPieces, Shake
from tests.support.random_traces import random_trace, with_fewer
from tests.support.replays import BARE, POLICIES, machine

ODD = {
    "pieces": replace(POLICIES["prefetch"], name="pieces", prefetch=InPieces()),
    "pieces_end": replace(POLICIES["prefetch_end"], name="pieces_end", prefetch=InPieces()),
    "eager": replace(BARE, name="eager", prediction=Guess(), prefetch=Eager()),
    "shake": replace(BARE, name="shake", substitution=Shake()),
    "coin": replace(BARE, name="coin", assignment=CoinSide()),
    "all_odd": replace(
        BARE, name="all_odd", eviction=Belady(), prediction=Guess(), prefetch=Eager(), substitution=Shake(),
        assignment=CoinSide(),
    ),
}  # fmt: skip
RULES = POLICIES | ODD
"""Every policy that the tests know."""


def every_rule(part: str) -> dict:
    """The rules of a part by the name of their yaml; those that need a trained network have tests of their own."""
    rules = {name: load_part(part, name) for name in rule_names(part)}
    return {name: rule for name, rule in rules.items() if not isinstance(rule, TrainedPrediction)}


PARTS = {part: every_rule(part) for part in BASES}
PARTS["prediction"] |= {"guess": Guess()}
PARTS["prefetch"] |= {
    "in_pieces": InPieces(), "eager": Eager(), "idle": TopScore(link_idle=True),
    "idle_ahead": LayersAhead(link_idle=True),
}  # fmt: skip
PARTS["substitution"] |= {"shake": Shake()}
PARTS["assignment"] |= {"coin": CoinSide()}

machines = {
    "seed": st.integers(0, 10_000),
    "write_back": st.sampled_from(["none", "none", "serial", "overlap"]),
    "slots": st.integers(1, 8),
    "scope": st.sampled_from(["layer", "global"]),
    "start": st.sampled_from(["cold", "warm", "profile"]),
    "reset": st.sampled_from(["never", "request", "all"]),
    "batch_size": st.integers(1, 3),
    "prefill_chunk": st.sampled_from([None, None, 1, 3]),
    "sizes": st.sampled_from([1000, [1000, 600, 1400]]),
    "dense": st.booleans(),
    "bandwidth": st.sampled_from([1e8, 1e9, 7.3e9, 1e18]),
    "compute": st.sampled_from([3e8, 1.3e9, 1e10, 1e18]),
    "host_ns": st.sampled_from([0, 1, 300, 2000]),
    "call_ns": st.sampled_from([0, 20, 1000]),
    "staging_slots": st.integers(1, 3),
    "cpu": st.sampled_from([0.2, 0.5, 1.0, 3.0]),
    "contention": st.sampled_from([1.0, 1.7]),
    "memory": st.sampled_from(["pinned", "pageable", "staged"]),
    "late_copy_to_cpu": st.booleans(),
    "cancel_late_copy": st.booleans(),
    "graphs": st.booleans(),
    "run_on_arrival": st.booleans(),
    "overlaps": st.booleans(),
    "fewer": st.sampled_from([0.0, 0.0, 0.3, 0.9]),
    "drafts": st.sampled_from([0, 0, 0, 1, 2, 7]),
    "acceptance": st.sampled_from([0.0, 0.6, 1.0]),
    "draft": st.sampled_from(["ngram", "mtp", "model"]),
    "auto": st.sampled_from([None, None, None, 1.0, 2.5]),
    "order": st.sampled_from([None, None, None, *ORDERS]),
    "bypass": st.sampled_from(["overflow", "always"]),
    "session": st.sampled_from(
        [{}, {}, {"by_turn": True}, {"turns": 2, "think_s": 7e-7}, {"turns": 3, "keep": "none"}]
    ),
    "rejected": st.sampled_from(["recorded", "other"]),
    "host": st.sampled_from([None, None, 0.3, 0.6, "unified", "peer"]),
    "host_store": st.fixed_dictionaries(
        {
            "eviction": st.sampled_from(["lru", "fifo"]),
            "inclusion": st.sampled_from(["inclusive", "exclusive"]),
            "start": st.sampled_from(["cold", "warm"]),
        }
    ),
    "first_layers": st.sampled_from([None, None, None, 1, 2]),
    "read_bytes_per_s": st.sampled_from([2e8, 3.1e9, 1e18]),
    "read_bytes": st.sampled_from([None, 130]),
}
cases = st.fixed_dictionaries(machines | {"policy": st.sampled_from(sorted(RULES))})
mixtures = st.fixed_dictionaries(
    machines
    | {part: st.sampled_from(sorted(rules)) for part, rules in PARTS.items()}
    | {
        "residency": st.sampled_from(["cache"] * 6 + ["all", "none"]),
        "experts": st.sampled_from([1, 2, 5, 8]),
        "top_k": st.sampled_from([1, 2, 3, 8]),
        "layers": st.integers(1, 3),
        "lengths": st.sampled_from([((4, 0, 2), (5, 6, 0)), ((0, 0, 0), (1, 1, 1)), ((2, 0, 1) * 30, (2, 3, 1) * 30)]),
    }
)


def policy_of(case):
    """The named policy, or the mixture of parts."""
    if "policy" in case:
        return replace(RULES[case["policy"]], write_back=case["write_back"])
    rules = [PARTS[part][case[part]] for part in BASES]
    return Policy("mixture", *rules, residency=case["residency"], write_back=case["write_back"])


def trace_of(case, seed):
    """A trace of the case's shape; with ``dense`` everything else in the model has a size too."""
    layers, experts = case.get("layers", 3), case.get("experts", 8)
    prompts, decodes = case.get("lengths", ((4, 0, 2), (5, 6, 0)))
    sizes = case["sizes"][:layers] if isinstance(case["sizes"], list) else case["sizes"]
    trace = random_trace(
        seed, layers, experts, min(case.get("top_k", 2), experts), prompts=prompts, decodes=decodes, expert_bytes=sizes
    )
    if case["fewer"]:
        trace = with_fewer(trace, case["fewer"], seed)
    if not case["dense"]:
        return trace
    rest = {"attention_bytes": (300,) * layers, "shared_bytes": (70,) * layers}
    return replace(
        trace, geometry=replace(trace.geometry, other_bytes=4000, kv_bytes_per_token=60 if case["auto"] else 9, **rest)
    )


def drawn(case, engine, timeline=True):
    trace, others = trace_of(case, case["seed"]), trace_of(case, case["seed"] + 1)
    host_s = case["host_ns"] * 1e-9
    hardware = machine(
        link_bytes_per_s=case["bandwidth"], gpu_memory_bytes_per_s=case["compute"], host_s_per_layer=host_s,
        link_call_s=case["call_ns"] * 1e-9, staging_slots=case["staging_slots"], cpu_ratio=case["cpu"],
        launch_s=host_s / 10, kernels_per_expert=2, kernels_per_layer=3, readback_s=host_s / 7, sync_s=host_s / 5,
        link_contention=case["contention"], cpu_contention=case["contention"], dequantise_bytes_per_s=5e9,
        pageable_bytes_per_s=4e8, pageable_call_s=1e-8, staging_bytes_per_s=2e9, copies_per_expert=2,
        memory=case["memory"], cuda_graphs=case["graphs"], graph_launch_s=host_s / 13,
        late_copy_to_cpu=case["late_copy_to_cpu"], cancel_late_copy=case["cancel_late_copy"],
        run_on_arrival=case["run_on_arrival"], cpu_overlaps_gpu=case["overlaps"], cpu_transfer_s=host_s / 3,
    )  # fmt: skip
    cache = CacheConfig(
        slots_per_layer=min(case["slots"], trace.num_experts), scope=case["scope"], start=case["start"],
        reset=case["reset"],
    )  # fmt: skip
    batch_size = 64 if trace.num_requests > 3 else case["batch_size"]
    policy, order, session = policy_of(case), order_of(case), SessionConfig(**case["session"])
    run = RunConfig(
        batch_size=1 if session.cuts else batch_size, prefill_chunk=case["prefill_chunk"], seed=case["seed"],
        timeline=timeline and not order.streams, engine=engine,
    )  # fmt: skip
    trace = as_session(trace, session)[0]
    model = {"draft_bytes": 800, "draft_kv_bytes": 7} if case["draft"] == "model" else {}
    speculate = SpeculateConfig(
        case["drafts"], case["acceptance"], draft=case["draft"], rejected=case["rejected"], **model
    )
    if case["auto"]:
        policy = replace(policy, write_back="none")
        cache = replace(cache, slots_per_layer=None, bytes="auto", workspace_bytes=0)
        memory = memory_for(case, trace, policy, hardware, order.streams, speculate)
        hardware = hardware.with_figures({"gpu_memory_bytes": memory})
    hardware, tiers = with_tiers(case, policy, hardware, order, trace)
    tiers = on_two_gpus(case, policy, hardware, cache, trace) | tiers
    setup = DeviceSetup(policy, hardware, cache, run, speculate=speculate, session=session, prefill=order, **tiers)
    return assemble(trace, in_session(setup, session), others=others)


def on_two_gpus(case, policy, hardware, cache, trace):
    """The case's split of layers: none where the policy cannot be replayed so."""
    first, across = case["first_layers"], {Need.FORECAST, Need.DRAFTS} & {*policy.needs()}
    if first is None or first >= trace.num_layers or across or hardware.hardware.unified_memory:
        return {}
    if cache.auto and case["drafts"]:
        return {}
    if case["host"] is not None and decides(policy.prefetch, Prefetch, "choose"):
        return {}
    rate = case["bandwidth"] / 3
    return {
        "devices": DevicesConfig(2, first_layers=first, second_link_bytes_per_s=rate, handover_s=case["call_ns"] * 1e-9)
    }


def with_tiers(case, policy, hardware, order, trace):
    """(the machine with the case's storage, its host memory or second GPU): none where the policy cannot be replayed on
    it."""
    if case["host"] is None or order.streams or policy.prefetch.chunks() > 1 or Need.LOW_PRECISION in policy.needs():
        return hardware, {}
    rate = case["read_bytes_per_s"]
    read = {
        "storage_rates": [[1, 1, rate, rate]],
        "storage_latency_s": 3e-8,
        "read_bytes": case["read_bytes"],
        "install_s": 7e-9,
    }
    if case["host"] == "unified":
        alone = Need.CPU not in policy.needs() and policy.write_back == "none"
        return (hardware.with_figures(read | {"unified_memory": True}) if alone else hardware), {}
    sizes = trace.geometry.expert_bytes
    least, whole = trace.top_k * max(sizes), sum(sizes) * trace.num_experts
    store = case["host_store"]
    if policy.write_back == "none":
        store = store | {"inclusion": "inclusive"}
    if case["host"] == "peer":
        links = {"peer_bytes_per_s": 3 * rate, "second_link_bytes_per_s": rate, "peer_bytes": max(least, whole // 2)}
        peer = {"devices": DevicesConfig(2, "store", **links), "host": HostConfig(**store)}
        return hardware, peer
    if case["first_layers"] is not None:  # each GPU has its layers' share of host memory
        least *= trace.num_layers
    return hardware.with_figures(read), {"host": HostConfig(bytes=max(least, int(case["host"] * whole)), **store)}


def order_of(case):
    """How prompts get at their experts: none that the case's other knobs exclude."""
    order = case["order"]
    if order == "stream" and policy_of(case).prefetch.promotes:
        order = "bypass"
    order = "expert" if order == "chunk" and case["prefill_chunk"] is None else order
    passes = case["prefill_chunk"] if order in ("expert", "bypass", "stream") else None
    return PrefillConfig(order, case["bypass"], passes)


def memory_for(case, trace, policy, hardware, streams, speculate):
    """Memory that leaves ``auto`` experts per layer, all of them to a policy that keeps all, beside every token."""
    sizes, cache = trace.geometry.expert_bytes, CacheConfig(bytes="auto", workspace_bytes=0)
    memory = memory_of(hardware, policy, cache, trace.geometry, streams, speculate)
    room = trace.num_experts * sum(sizes) if policy.residency == "all" else int(case["auto"] * len(sizes) * max(sizes))
    return sum(memory.parts.values()) + trace.num_tokens * memory.kv_bytes_per_token + room


def outcome(replay):
    """(per-step table, sorted slices of the timeline, metrics, what is resident at the end, what rules remember)."""
    table = StepTable(replay)
    table.run()
    logs = [turn.engine.take_log() for turn in replay.turns]
    if len(logs) > 1:
        logs.append(replay.engine.take_log())
    log = np.concatenate([log[np.lexsort(log.T[::-1])] for log in logs])
    memories = np.concatenate([memory for device in replay.devices for memory in device.memories.values()])
    residents = np.concatenate([device.residents() for device in replay.devices])
    return table.array(), log, table.metrics(), residents, memories


def assert_engines_agree(case):
    simpy_engine, compiled = outcome(drawn(case, "simpy")), outcome(drawn(case, "compiled"))
    np.testing.assert_array_equal(simpy_engine[0], compiled[0])
    np.testing.assert_array_equal(simpy_engine[1], compiled[1])
    assert simpy_engine[2] == compiled[2]
    np.testing.assert_array_equal(simpy_engine[3], compiled[3])
    np.testing.assert_array_equal(simpy_engine[4], compiled[4])
    silent = outcome(drawn(case, "compiled", timeline=False))
    np.testing.assert_array_equal(silent[0], compiled[0])
    np.testing.assert_array_equal(silent[3], compiled[3])
    return simpy_engine


def assert_sound(found, replay):
    """What holds for every policy: parts and outcomes add up, every prefetch ends once, nothing is left over."""
    table = dict(zip(COLUMNS, found[0].T, strict=True))
    parts = sum(table[name] for name in COLUMNS if name.endswith("_ns") and name != "latency_ns")
    np.testing.assert_array_equal(parts, table["latency_ns"])
    outcomes = sum(table[name] for name in ("hits", "late", "fetches", "cpu", "substitutes", "drops", "degrades"))
    np.testing.assert_array_equal(outcomes, table["demanded"])
    ended = sum(table[f"prefetch_{name}"].sum() for name in ("used", "late", "wasted", "abandoned"))
    rule = replay.policy.prefetch
    if rule.promotes or rule.admits:  # what came for later steps may still wait for its use
        assert ended <= table["prefetch_copies"].sum()
    else:
        assert ended == table["prefetch_copies"].sum()
    for rate in ("link_utilisation", "cpu_utilisation"):
        assert found[2][rate] is None or 0 <= found[2][rate] <= 1
    for device in replay.devices:
        check_finished(device)


@settings(max_examples=100, deadline=None)
@given(cases)
def test_engines_agree_to_the_nanosecond(case):
    assert_engines_agree(case)


@settings(max_examples=100, deadline=None)
@given(mixtures)
def test_engines_agree_on_every_mixture_of_rules(case):
    assert_agree_and_sound(case)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(mixtures)
def test_engines_agree_on_many_more_mixtures(case):
    assert_agree_and_sound(case)


def assert_agree_and_sound(case):
    static, rule = PARTS["eviction"][case["eviction"]].static, PARTS["prefetch"][case["prefetch"]]
    if rule.promotes:  # of a drawn prediction nothing is asked
        case = case | {"prediction": "none"}
    predicts = case["prediction"] != "none" and not static
    assume(predicts or case["prefetch"] == "none" or ((rule.promotes or rule.admits) and not static))
    if Need.CPU in rule.all_needs():
        assume(Need.CPU in PARTS["assignment"][case["assignment"]].all_needs())
    found = assert_engines_agree(case)
    replay = drawn(case, "compiled")
    for _ in replay.blocks():
        pass
    assert_sound(found, replay)
