"""What a reset between requests forgets: the order of requests shows where anything is left."""

import numpy as np
import pytest

from sim.assembly.catalogue import load_policy, system_names
from sim.metrics.step_table import StepTable
from tests.support.random_traces import recorded_trace
from tests.support.replays import machine
from traces.errors import UserError

TRACE = recorded_trace(3, (3, 2, 4, 1), (9, 8, 10, 7))
OTHERS = recorded_trace(4, (3, 2), (9, 8))
ORDER = np.array([2, 0, 3, 1])


def per_request(policy, trace, reset, engine="compiled"):
    """Counts and times of every step of every request, by the request's number."""
    from sim.assembly.replay import DeviceSetup, assemble
    from sim.config import RunConfig
    from sim.machine.capacity import CacheConfig

    cache = CacheConfig(reset=reset, slots_per_layer=4)
    setup = DeviceSetup(policy, machine(), cache, RunConfig(engine=engine, seed=5))
    table = StepTable(assemble(trace, setup, others=OTHERS))
    rows = table.run().array()
    return [rows[rows[:, 0] == group][:, 2:].tolist() for group in range(trace.num_requests)]


def policies():
    for name in system_names():
        policy = load_policy(name)
        try:
            per_request(policy, TRACE, "all")
        except UserError:
            continue  # wants what this trace has not, as a trained network
        yield name, policy


def test_after_a_reset_of_everything_the_order_of_requests_does_not_matter():
    tried = []
    permuted = TRACE.take_requests(ORDER, "permuted")
    for name, policy in policies():
        there, again = per_request(policy, TRACE, "all"), per_request(policy, permuted, "all")
        assert [there[request] for request in ORDER] == again, name
        tried.append(name)
    assert len(tried) > 15


def test_a_reset_of_the_cache_leaves_what_other_rules_have_learned():
    permuted = TRACE.take_requests(ORDER, "permuted")
    differ = []
    for name, policy in policies():
        there, again = per_request(policy, TRACE, "request"), per_request(policy, permuted, "request")
        if [there[request] for request in ORDER] != again:
            differ.append(name)
    assert differ  # documented in docs/limits.md


@pytest.mark.parametrize("name", ["importance", "belady", "cecar", "hobbit"])
def test_both_clocks_forget_the_same(name, engine="simpy"):
    policy = load_policy(name)
    mine, other = per_request(policy, TRACE, "all", engine), per_request(policy, TRACE, "all")
    assert mine == other


def test_the_first_request_is_as_without_a_reset():
    policy = load_policy("importance")
    assert per_request(policy, TRACE, "all")[0] == per_request(policy, TRACE, "never")[0]
