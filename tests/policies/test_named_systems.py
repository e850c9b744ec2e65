"""Named systems: which decide alike, what cache they ask for, what each does that its neighbour does not."""

from itertools import combinations

import numpy as np
import pytest

from policies.base import Policy
from sim.assembly.build import build
from sim.assembly.catalogue import load_policy, load_system, system_names
from sim.assembly.compose import compose_run
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig
from sim.machine.capacity import CacheConfig
from sim.metrics.step_table import StepTable
from tests.support.random_traces import random_trace
from tests.support.replays import machine
from tests.support.timelines import rows, timed
from traces.format.trace import DECODE

STATIC = ("daop", "fiddler", "ktransformers")


def steps_of(policy: Policy, hardware, phases=(DECODE,)) -> np.ndarray:
    """What every step of these phases took and counted."""
    trace, others = (random_trace(seed, prompts=(6, 5), decodes=(9, 8)) for seed in (4, 5))
    setup = DeviceSetup(policy, hardware, CacheConfig(slots_per_layer=3), RunConfig(batch_size=2, engine="compiled"))
    replay = assemble(trace, setup, others=others)
    table = StepTable(replay)
    table.run()
    found = table.columns()
    chosen = np.isin(found["phase"], phases)
    return np.stack([column[chosen] for name, column in found.items() if column.dtype == np.int64])


def test_systems_of_one_static_placement_decode_alike_where_the_cpu_is_cheaper():
    """Fiddler copies what the CPU computes dearer: prompts here, and everything on a slow CPU."""
    fast, slow = machine(cpu_ratio=0.4), machine(cpu_ratio=1.5)
    daop, fiddler, ktransformers = (steps_of(load_policy(name), fast) for name in STATIC)
    assert daop.size > 0
    np.testing.assert_array_equal(daop, ktransformers)
    np.testing.assert_array_equal(fiddler, ktransformers)
    assert not np.array_equal(*(steps_of(load_policy(name), slow) for name in STATIC[1:]))


def test_systems_of_equal_parts_say_so():
    """... and no others claim it without a test above."""
    systems = {name: load_system(name) for name in system_names()}
    policies = {name: load_policy(name) for name in systems}
    for one, other in combinations(systems, 2):
        first, second = policies[one], policies[other]
        made = ((*policy.parts(), policy.residency, policy.write_back, policy.scope, policy.start, policy.allocation)
                for policy in (first, second))  # fmt: skip
        if len({*map(repr, made)}) == 1:
            assert other in (systems[one].decides_as or ""), (one, other)
            assert one in (systems[other].decides_as or ""), (one, other)
    assert {name for name, system in systems.items() if system.decides_as} == {
        *STATIC,
        "deepspeed",
        "on_demand",
        "lru",
        "mlx_ssd",
    }


@pytest.mark.parametrize(
    ("policy", "scope", "start"),
    [
        ("smoe_code", "global", "warm"),
        ("smoe_code_2026_07", "global", "warm"),
        ("moe_infinity_code", "global", "cold"),
        ("moe_infinity_paper", "global", "cold"),
        ("llama_cpp", "global", "cold"),
        ("mixtral_offloading_code", "layer", "warm"),
        ("lru", "layer", "cold"),
    ],
)
def test_a_policy_brings_the_cache_that_it_is_meant_for(policy, scope, start):
    cache = build(compose_run(f"policy={policy}", "engine=compiled")).cache
    assert (cache.scope, cache.start) == (scope, start)
    words = ["cache.scope=layer", "cache.start=cold"]
    if policy == "lru":
        words = ["cache.scope=global", "cache.start=warm"]
    asked = build(compose_run(f"policy={policy}", "engine=compiled", *words)).cache
    assert [f"cache.scope={asked.scope}", f"cache.start={asked.start}"] == words
    assert DeviceSetup(load_policy(policy), machine()).cache == CacheConfig(scope=scope, start=start)


def test_mixtral_offloading_copies_home_in_the_code_and_fetches_early_in_the_paper():
    trace = random_trace(2, prompts=(0, 0), decodes=(9, 8))
    paper, code = (
        timed(trace, load_policy(f"mixtral_offloading_{form}"), engine="compiled", slots_per_layer=3).counts
        for form in ("paper", "code")
    )
    assert paper["prefetch_copies"] > 0 and paper["written_back_bytes"] == 0
    assert code["prefetch_copies"] == 0
    assert code["written_back_bytes"] == 1000 * code["evictions"] == code["copied_bytes"] > 0  # a swap for every miss


def test_moe_infinity_as_released_fetches_nothing_early_and_never_forgets_a_count():
    """One slot for both layers. 0 of layer 0 was used twice, 0 of layer 1 twice: ties by (expert, layer)."""
    assert timed(random_trace(2), load_policy("moe_infinity_code"), engine="compiled").counts["prefetch_copies"] == 0
    trace = rows([[0], [1]], [[0], [2]], [[0], [1]])
    found = timed(trace, load_policy("moe_infinity_code"), engine="simpy", bytes=2000)
    assert [key for key, *_ in found.slices("copy")] == [0, 9, 10, 9]  # the once used 9 of layer 1 goes, then 10, not 0
