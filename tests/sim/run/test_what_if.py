"""What-if scenarios on machines where only one thing takes time, and the sentences that name what binds."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from policies.eviction.lru import Lru
from sim.machine.parts import PARTS
from sim.run.what_if import SCENARIOS, TOGETHER, Row, binding, bound, difference, what_if
from sim.workload import rows
from tests.support.random_traces import random_trace, routed
from tests.support.replays import BARE, machine, replay_of, run


def rows_of(answers):
    return {row["name"]: row for row in answers["scenarios"]}


def one_layer(sequence, requests=1):
    ids = np.array([[[ord(letter) - ord("A")]] for letter in sequence * requests])
    return routed(ids, 8, [0] * requests, [len(sequence)] * requests)


def test_where_only_the_link_takes_time_it_is_named():
    """A B A B with one slot: four copies of 1000 ns; A is kept and B streams past it, so the second A hits."""
    answers = what_if(replay_of(one_layer("ABAB"), "lru", slots_per_layer=1))
    assert answers["label"] == "SIMULATED"
    assert answers["baseline"] == {"tpot_s": pytest.approx(1e-6), "hit_rate": 0.0}
    rows = rows_of(answers)
    changes = {name: row["change"] for name, row in rows.items()}
    assert changes == {
        "infinite link": -1.0,
        "zero launch, sync and host time": 0.0,
        "perfect prefetch": 0.0,  # there is no next layer
        "oracle eviction": pytest.approx(-0.25),
        "all resident": -1.0,
        TOGETHER: -1.0,
    }
    assert rows["oracle eviction"]["hit_rate"] == pytest.approx(1 / 4)
    assert answers["binding"].startswith("what binds is the link: infinite link changes TPOT most, by -100.0%")
    assert answers["bound"] == "link-bound: the link is busy 100% of the time"


def test_with_several_requests_equal_gains_are_said_to_be_equal():
    answers = what_if(replay_of(one_layer("ABAB", requests=3), "lru", slots_per_layer=1))
    assert answers["binding"].startswith("what binds is the link")
    assert (
        "within the noise over requests so does all resident (-100.0%: the capacity of the cache)"
        in (answers["binding"])
    )


def test_where_only_the_host_takes_time_it_is_named():
    hardware = machine(link_bytes_per_s=1e18, host_s_per_layer=3e-6, sync_s=1e-6, launch_s=1e-7, kernels_per_layer=5)
    answers = what_if(replay_of(random_trace(0), "lru", hardware, slots_per_layer=3))
    rows = rows_of(answers)
    assert answers["baseline"]["tpot_s"] == pytest.approx(3 * 4.5e-6)
    assert rows["zero launch, sync and host time"]["tpot_s"] == 0.0
    assert rows["infinite link"]["change"] == 0.0
    assert answers["binding"].startswith("what binds is launches, synchronisation and host time")
    assert "so does" not in answers["binding"]
    assert answers["bound"].startswith("overhead-bound")


def test_where_only_computing_takes_time_nothing_helps():
    hardware = machine(link_bytes_per_s=1e18, gpu_memory_bytes_per_s=1e9)
    answers = what_if(replay_of(random_trace(0), "lru", hardware, slots_per_layer=3))
    assert {row["change"] for row in answers["scenarios"]} == {0.0}
    assert answers["binding"] == "none of these changes gains 0.1%: computing attention and experts binds"
    assert answers["bound"] == "compute-bound: the GPU computes 100% of a decode step"


def test_perfect_prefetch_hides_copies_behind_the_host():
    """Two experts per layer, host time of 10 us: what is fetched a layer early is in time, layer 0 waits."""
    hardware = machine(host_s_per_layer=10e-6)
    ids = np.arange(12).reshape(2, 3, 2) % 8
    answers = what_if(replay_of(routed(ids, 8, [0], [2]), "lru", hardware, slots_per_layer=2))
    assert answers["baseline"]["tpot_s"] == pytest.approx(3 * 12e-6)
    assert rows_of(answers)["perfect prefetch"]["tpot_s"] == pytest.approx(32e-6)


def test_the_baseline_is_the_run_itself():
    hardware = machine(gpu_memory_bytes_per_s=3e9, host_s_per_layer=1e-6)
    replay = replay_of(random_trace(5), "importance", hardware, slots_per_layer=3, batch_size=2)
    steps = []
    answers = what_if(replay, steps.append)
    assert answers["baseline"]["tpot_s"] == run(replay)["tpot_s.mean"]
    assert sum(steps) == replay.schedule.num_steps()


@pytest.mark.parametrize("ranked", [True, False])
@pytest.mark.parametrize("reset", ["never", "request", "all"])
def test_scenarios_that_share_what_is_read_give_what_each_gives_alone(reset, ranked):
    """Rules that read weights, scores, lookahead or the future, beside rules that do not."""
    trace = replace(random_trace(3), ranked=ranked)
    replay = replay_of(trace, "importance", machine(host_s_per_layer=1e-6), slots_per_layer=3, reset=reset)
    found = rows_of(what_if(replay))
    for scenario in SCENARIOS:
        policy, time = scenario.change(replay.policy, replay.setup.time)
        alone = run(replay.assemble_again(policy=policy, time=time))
        assert found[scenario.name]["tpot_s"] == alone["tpot_s.mean"]
        assert found[scenario.name]["hit_rate"] == alone["hit_rate"]


def test_what_is_read_of_the_trace_is_read_once(monkeypatch):
    read, gather = [], rows.gather

    def counted(array, chosen):
        read.append(array)
        return gather(array, chosen)

    monkeypatch.setattr(rows, "gather", counted)
    trace = random_trace(0)
    what_if(replay_of(trace, "lru", slots_per_layer=3))
    assert [array is trace.topk_ids for array in read] == [True]  # one block, whatever the number of scenarios


@dataclass(frozen=True)
class Fixed(Lru):
    """A placement that never changes."""

    static = True


def test_what_a_policy_rules_out_is_said_and_left_out_of_the_joint_scenario():
    policy = replace(BARE, name="fixed", eviction=Fixed())
    rows = rows_of(what_if(replay_of(random_trace(0), policy, slots_per_layer=3)))
    assert "nothing can be prefetched" in rows["perfect prefetch"]["refused"]
    assert rows["perfect prefetch"]["tpot_s"] is None
    assert rows[TOGETHER]["refused"] is None and rows[TOGETHER]["change"] == -1.0


def test_without_decode_steps_nothing_binds():
    answers = what_if(replay_of(random_trace(0, prompts=(4,), decodes=(0,)), "lru", slots_per_layer=3))
    assert answers["baseline"]["tpot_s"] is None
    assert answers["binding"] == "no request has a time per output token, so nothing can be said to bind"


def test_noise_decides_what_is_equal():
    requests = {"group": np.arange(8)}
    rows = [Row("a", "one thing", 0.5, -0.50, None), Row("b", "another", 0.51, -0.49, None)]
    wobble = np.array([1, -1] * 4) * 0.1
    close = {"a": 0.5 + wobble, "b": 0.51 - wobble}
    assert "so does b (-49.0%: another)" in binding(requests, rows, close)
    apart = {"a": 0.5 + wobble, "b": 0.51 + wobble}  # every request gains the same 0.01 more
    assert "so does" not in binding(requests, rows, apart)
    assert "its noise is not known" in binding({"group": np.zeros(8, int)}, rows, close)


def test_difference_draws_whole_batches():
    group = np.array([0, 0, 1, 1])
    assert difference(group, np.array([3.0, 1.0, 2.0, 2.0]), np.ones(4)) == (1.0, 1.0)
    assert difference(group, np.array([np.nan, 2.0, 2.0, 2.0]), np.ones(4)) == (1.0, 1.0)


def test_bound_names_the_largest_part_where_nothing_is_saturated():
    metrics = {f"time_s_per_token.{part}": 0.0 for part in PARTS} | {"link_utilisation": 0.5, "cpu_utilisation": 0.95}
    assert bound(metrics) == "CPU-bound: the CPU is busy 95% of the time"
    metrics |= {"cpu_utilisation": 0.0, "time_s_per_token.link": 0.6, "time_s_per_token.expert": 0.4}
    assert bound(metrics) == "nothing is busy 90% of the time; the largest part is waiting for the link, 60%"
