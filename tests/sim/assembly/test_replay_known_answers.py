"""Replays whose result can be worked out by hand or by formula."""

import numpy as np
import pytest

from tests.support.random_traces import random_trace, routed
from tests.support.replays import POLICIES, machine, replay_of, run


def one_layer(sequence: str, num_experts: int = 8):
    """One decode request, one layer, top 1: letters are experts."""
    ids = np.array([[[ord(letter) - ord("A")]] for letter in sequence])
    return routed(ids, num_experts, [0], [len(sequence)])


def hits(sequence: str, policy: str, slots: int, **knobs) -> int:
    replay = replay_of(one_layer(sequence), policy, slots_per_layer=slots, **knobs)
    return round(run(replay)["hit_rate"] * len(sequence))


@pytest.mark.parametrize(
    ("sequence", "policy", "slots", "expected"),
    [
        ("ABCAB", "belady", 2, 2),
        ("ABCAB", "belady_admit", 2, 1),
        ("ABCAB", "lru", 2, 0),
        ("ABCAB", "lru", 3, 2),
        ("AAAA", "lru", 1, 3),
        ("ABAB", "lru", 1, 0),
        ("ABAB", "belady", 1, 1),
        ("ABCD", "all_resident", 1, 4),
        ("AAAA", "on_demand", 1, 0),
        ("ABACABAD", "lru", 2, 3),
        ("ABACABAD", "belady_admit", 2, 3),
        ("ABACABAD", "belady", 2, 4),
    ],
)
def test_hits_of_hand_worked_sequences(sequence, policy, slots, expected):
    assert hits(sequence, policy, slots) == expected


@pytest.mark.parametrize("policy", ["lru", "belady", "belady_admit"])
def test_sequential_semantics_equals_steps_when_every_step_has_one_access(policy):
    sequence = "ABCADBACBDABCDDCBA"
    assert hits(sequence, policy, 2) == hits(sequence, policy, 2, semantics="sequential")


def test_a_step_is_looked_up_before_any_of_it_is_admitted():
    """A B, then C A with two slots: as one step A is still there; one access at a time C has pushed it out."""
    trace = routed(np.array([[[0, 1]], [[2, 0]]]), 4, [0], [2])
    assert run(replay_of(trace, "lru", slots_per_layer=2))["hit_rate"] == pytest.approx(1 / 4)
    assert run(replay_of(trace, "lru", slots_per_layer=2, semantics="sequential"))["hit_rate"] == 0.0


def test_overflow_keeps_the_most_recent_experts_of_the_step():
    """A prompt of A B C D with two slots leaves C and D; then D and C hit, A does not."""
    ids = np.array([[[0]], [[1]], [[2]], [[3]], [[3]], [[2]], [[0]]])
    replay = replay_of(routed(ids, 4, [4], [7]), "lru", slots_per_layer=2)
    metrics = run(replay)
    assert metrics["prefill.hit_rate"] == 0.0
    assert metrics["decode.hit_rate"] == pytest.approx(2 / 3)


def test_overflow_hold_keeps_the_whole_step_until_the_next_one():
    ids = np.array([[[0]], [[1]], [[2]], [[3]], [[0]], [[1]]])
    metrics = run(replay_of(routed(ids, 4, [4], [6]), "lru", slots_per_layer=2, overflow="hold"))
    # all four are held; A hits and evicts down to two by recency (D, A); then B misses
    assert metrics["decode.hit_rate"] == pytest.approx(1 / 2)
    assert metrics["tpot_s.mean"] is None


def test_copied_bytes_and_loads_without_a_cache():
    metrics = run(replay_of(random_trace(1, expert_bytes=700), "on_demand"))
    assert metrics["decode.loads_per_token"] == 3 * 2
    assert metrics["decode.bytes_per_token"] == 3 * 2 * 700


def test_serial_tpot_is_compute_plus_bytes_over_bandwidth():
    """Without a cache the first copy hides nothing: layer time = copies in a row, then the last expert's compute."""
    trace = random_trace(2)
    copy_s, expert_s, host_s = 1000 / 1e9, 1000 / 4e9, 5e-6
    hardware = machine(gpu_memory_bytes_per_s=4e9, host_s_per_layer=host_s)
    metrics = run(replay_of(trace, "on_demand", hardware))
    assert metrics["tpot_s.mean"] == pytest.approx(3 * (2 * copy_s + expert_s + host_s), rel=1e-12)
    assert metrics["time_s_per_token.link"] == pytest.approx(3 * (2 * copy_s - expert_s), rel=1e-12)
    resident = run(replay_of(trace, "all_resident", hardware))
    assert resident["tpot_s.mean"] == pytest.approx(3 * (2 * expert_s + host_s), rel=1e-12)
    assert resident["stall_s_per_token.link"] == 0.0


def test_fixed_terms_are_charged_once_per_layer():
    hardware = machine(readback_s=1e-6, sync_s=2e-6, host_s_per_layer=3e-6, launch_s=1e-7, kernels_per_layer=5)
    metrics = run(replay_of(random_trace(3), "lru", hardware, fraction=1.0))
    assert metrics["time_s_per_token.sync"] == pytest.approx(3 * 3e-6)
    assert metrics["time_s_per_token.host"] == pytest.approx(3 * 3e-6)
    assert metrics["time_s_per_token.launch"] == pytest.approx(3 * 5e-7)


def test_a_warm_cache_may_be_evicted_at_once():
    """C D C D ..., two slots full of A and B at the start: everything but the first C and D hits, for every rule."""
    for policy in ("lru", "belady_admit", "belady"):
        assert hits("CDCDCDCDCD", policy, 2, start="warm") == 8


def test_equal_priorities_evict_the_lowest_layer_and_expert():
    """A and B fill the cache with equal priority: C takes A's slot, so that B still hits and A does not."""
    assert hits("CB", "lru", 2, start="warm") == 1
    assert hits("CA", "lru", 2, start="warm") == 0
    two_layers = routed(np.array([[[3], [0]]]), 4, [0], [1])  # one pool of 2 experts' bytes per layer: layer 0 fills it
    replay = replay_of(two_layers, "lru", bytes=2000, scope="global", start="warm")
    run(replay)
    assert np.argwhere(replay.device.residents()).tolist() == [[0, 3], [1, 0]]


def test_importance_comes_from_scores_where_there_are_no_weights():
    from dataclasses import replace

    logits = np.zeros((1, 1, 8), np.float32)
    logits[0, 0, :6] = [1, 2, 3, 4, 5, 6]
    trace = replace(routed(np.arange(6).reshape(1, 1, 6), 8, [0], [1], logits), topk_weights=None, ranked=False)
    replay = replay_of(trace, "cpu", slots_per_layer=6)
    run(replay)
    assert np.flatnonzero(replay.device.residents()[0]).tolist() == [4, 5]


def test_unranked_ids_are_served_best_first_where_scores_tell():
    from dataclasses import replace

    logits = np.log(np.array([0.30, 0.15, 0.13, 0.12, 0.10, 0.09, 0.07, 0.04], np.float32)).reshape(1, 1, 8)
    executed = []
    for order in ([0, 1, 2], [2, 0, 1]):
        trace = routed(np.array(order).reshape(1, 1, 3), 8, [0], [1], logits)
        replay = replay_of(replace(trace, ranked=order[0] == 0), "substitute", slots_per_layer=5, start="warm")
        replay.device.arrays["status"][0] = [2, 0, 0, 0, 2, 0, 0, 0]  # 0 and 4 are resident
        run(replay)
        executed.append(replay.device.arrays["executed_ids"][0].tolist())
    assert executed[0] == executed[1] == [0, 4, 2]


def test_waiting_for_the_prompts_of_others_counts_in_tpot():
    """Two requests, no cache, one layer: prefill 1000 ns each, then one decode step of two experts, 2000 ns."""
    trace = routed(np.array([[[0]], [[1]], [[2]], [[3]]]), 8, [1, 1], [2, 2])
    metrics = run(replay_of(trace, "on_demand", batch_size=2))
    assert metrics["ttft_s.mean"] == pytest.approx(1.5e-6)
    assert metrics["tpot_s.mean"] == pytest.approx((3e-6 + 2e-6) / 2)
    assert metrics["itl_s.mean"] == pytest.approx(2e-6)


def test_uniform_routing_hits_capacity_over_experts():
    """Uniform independent demand: every rule that admits all misses hits C / E of the time."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 16, size=(20_000, 1, 1))
    metrics = run(replay_of(routed(ids, 16, [0], [20_000]), "lru", slots_per_layer=4, overflow="hold"))
    assert metrics["hit_rate"] == pytest.approx(4 / 16, abs=0.01)


def test_cpu_takes_the_less_important_misses():
    """Six misses, CPU twice as fast as the link: after two copies at most, the rest runs beside them."""
    logits = np.zeros((1, 1, 8), np.float32)
    logits[0, 0, :6] = [6, 5, 4, 3, 2, 1]
    trace = routed(np.arange(6).reshape(1, 1, 6), 8, [0], [1], logits)
    replay = replay_of(trace, "cpu", slots_per_layer=6, time={"cpu_transfer": False})
    metrics = run(replay)
    # T_link <= T_cpu sends expert 0 over the link, then 5 and 4 to the CPU, then 1, then 3 and 2
    assert metrics["cpu_rate"] == pytest.approx(4 / 6)
    assert metrics["tpot_s.mean"] == pytest.approx(2000e-9)
    assert replay.device.residents()[0].tolist() == [True, True, False, False, False, False, False, False]


def test_prefetch_hides_copies_behind_the_next_layers_attention():
    """Two layers, perfect lookahead, copies that fit into a layer's host time: only the first layer ever waits."""
    logits = np.zeros((4, 2, 8), np.float32)
    for row in range(4):
        logits[row, :, 2 * row] = 8.0
        logits[row, :, 2 * row + 1] = 7.0
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :2]
    trace = routed(ids, 8, [0], [4], logits, lookahead=logits[:, 1:])
    hardware = machine(host_s_per_layer=10e-6)
    without = run(replay_of(trace, "lru", hardware, slots_per_layer=2))
    early = run(replay_of(trace, "prefetch", hardware, slots_per_layer=2))
    at_end = run(replay_of(trace, "prefetch_end", hardware, slots_per_layer=2))
    assert without["time_s_per_token.link"] == pytest.approx(2 * 2e-6)
    assert early["time_s_per_token.link"] == at_end["time_s_per_token.link"] == pytest.approx(2e-6)
    assert early["prefetch_precision"] == 1.0
    assert early["bytes_per_token"] == without["bytes_per_token"]


def test_a_prefetch_still_on_the_link_is_late_not_a_hit():
    logits = np.zeros((1, 2, 8), np.float32)
    logits[0, :, 0] = 9.0
    ids = np.zeros((1, 2, 1), np.int64)
    trace = routed(ids, 8, [0], [1], logits, lookahead=logits[:, 1:])
    metrics = run(replay_of(trace, "prefetch", machine(host_s_per_layer=0.4e-6), slots_per_layer=1))
    assert metrics["hit_rate"] == 0.0
    assert metrics["late_rate"] == pytest.approx(1 / 2)
    # layer 0 waits 1000 ns for its miss; the prefetch then has 400 ns of layer 1's host time, 600 ns are left to wait
    assert metrics["time_s_per_token.link"] == pytest.approx(1.6e-6)


def test_every_policy_of_the_tests_is_known_by_its_name():
    assert all(policy.name == name for name, policy in POLICIES.items())
