"""Each assignment rule on a few misses checked by hand, run as plain Python."""

import re

import numpy as np
import pytest

from policies.assignment.bandwidth_split import BandwidthSplit
from policies.assignment.best_split import BestSplit
from policies.assignment.cheaper_side import CheaperSide
from policies.assignment.cpu_and_promote import CpuAndPromote
from policies.assignment.cpu_only import CpuOnly
from policies.assignment.greedy_balance import GreedyBalance
from policies.assignment.reuse_split import ReuseSplit
from policies.assignment.simulated_split import SimulatedSplit
from policies.assignment.smoe_code import SmoeCodeSplit
from policies.assignment.two_pointer import TwoPointer
from policies.state import CPU, DECODE, IN_FLIGHT, LINK, PREFILL, RESIDENT, plain_state
from tests.policies.hand import decide, empty_memory
from traces.errors import UserError


def missing_state(load, cpu, gpu=0, tokens=1, importance=None, ready=(), phase=DECODE):
    """Experts 0, 1, ... are missing at these costs (a number: the same for all); further ones are ready on the GPU.

    ``ready``: (GPU ns, tokens) of each resident expert that is executed.
    """
    count = next(len(cost) for cost in (load, cpu, gpu, tokens) if not isinstance(cost, int))
    state = plain_state(1, count + len(ready) + 1, count, 1)
    state.phase, state.num_missing, state.num_executed = phase, count, count + len(ready)
    for field, cost in (("load_ns", load), ("cpu_ns", cpu), ("gpu_ns", gpu), ("tokens", tokens)):
        getattr(state, f"missing_{field}")[:count] = cost
    state.missing[:count] = state.order[:count] = range(count)
    state.missing_importance[:count] = 0 if importance is None else importance
    state.executed[: state.num_executed] = range(state.num_executed)
    state.executed_tokens[:count] = tokens
    for i, (gpu_ns, served) in enumerate(ready, start=count):
        state.status[0, i] = RESIDENT
        state.executed_gpu_ns[i], state.executed_tokens[i] = gpu_ns, served
    return state


def split(part, state):
    """(experts on the CPU, experts on the link), each as served."""
    decide(part, "assign", state)
    order = state.order[: state.num_missing].tolist()
    assert sorted(order) == list(range(state.num_missing))
    return [e for e in order if state.side[e] == CPU], [e for e in order if state.side[e] == LINK]


def test_two_pointer_balances_link_and_cpu():
    state = plain_state(1, 8, 5, 1)
    state.num_missing = 5
    state.missing_importance[:5] = [0.1, 0.5, 0.3, 0.2, 0.4]
    state.missing_load_ns[:5], state.missing_cpu_ns[:5] = 30, 10
    decide(TwoPointer(), "assign", state)
    # by importance: 1, 4, 2, 3, 0. Link takes 1 (30); CPU takes 0, 3, 2 (10, 20, 30 < 30 is false after the third)
    assert state.order[:5].tolist() == [1, 4, 2, 3, 0]
    assert state.side[:5].tolist() == [CPU, LINK, CPU, CPU, LINK]


@pytest.mark.parametrize(
    ("load", "cpu", "on_link"),
    [([40] * 4, 10, 1), ([40] * 6, 10, 2), ([40] * 5, 10, 1), ([40], 10, 0), ([20], 10, 1), ([10] * 3, 30, 3)],
)
def test_bandwidth_split_fetches_in_the_ratio_of_the_rates(load, cpu, on_link):
    """q = m * cpu / copy: 1, 1.5, 1.25, 0.25, 0.5 and more than there are; rounded to the nearest, halves up."""
    experts = list(range(len(load)))
    assert split(BandwidthSplit(), missing_state(load, cpu)) == (experts[on_link:], experts[:on_link])


def test_bandwidth_split_on_an_endless_link_fetches_all():
    assert split(BandwidthSplit(), missing_state([0, 0], 10)) == ([], [0, 1])


@pytest.mark.parametrize(("limit", "on_cpu"), [(None, [0, 1]), (2, [0, 1]), (1, [])])
def test_cpu_and_promote_copies_from_so_many_tokens_on(limit, on_cpu):
    state = missing_state([1, 1], 99)
    state.num_tokens = 1
    assert split(CpuAndPromote(limit), state)[0] == on_cpu


def test_cpu_only():
    assert split(CpuOnly(), missing_state([1, 1, 1], 99)) == ([0, 1, 2], [])


def test_cheaper_side_compares_the_cpu_with_copy_and_compute():
    assert split(CheaperSide(), missing_state(30, [29, 30, 31, 35], gpu=4)) == ([0, 1, 2], [3])
    assert split(CheaperSide(), missing_state(30, [30, 34], gpu=4)) == ([0], [1])  # equal: the link


def test_cheaper_side_goes_over_at_ten_tokens_with_fiddlers_constants():
    tokens = [1, 9, 10, 11]  # 7 per token on the CPU, 70 per copy
    assert split(CheaperSide(), missing_state(70, [7 * n for n in tokens], tokens=tokens)) == ([0, 1], [2, 3])


def test_cheaper_side_may_balance_the_two_sums():
    # sums: all on the CPU 40; 30 + 10 takes 30; 20 + 20 takes 24
    assert split(CheaperSide(balance=True), missing_state(11, [10, 10, 10, 10], gpu=1)) == ([2, 3], [0, 1])


def test_best_split_counts_experts_of_equal_cost():
    # CPU a third of a copy: 4 misses on the CPU 40; 3 + 1 copy 30 + compute 5 = 35; 2 + 2 copies 65
    assert split(BestSplit(), missing_state([30] * 4, 10, gpu=5)) == ([1, 2, 3], [0])
    # 5 misses: 50; 4 + 1: 40; 3 + 2: 65
    assert split(BestSplit(), missing_state([30] * 5, 10, gpu=5)) == ([1, 2, 3, 4], [0])
    # the two-pointer rule would put the single miss on the link, for 35
    assert split(BestSplit(), missing_state([30], 10, gpu=5)) == ([0], [])


def test_best_split_gives_the_link_the_most_important_and_ties_to_the_link():
    assert split(BestSplit(), missing_state([30] * 4, 10, gpu=5, importance=[1, 3, 2, 4])) == ([1, 2, 0], [3])
    assert split(BestSplit(), missing_state([20, 20], 20, importance=[1, 2])) == ([0], [1])
    assert split(BestSplit(), missing_state([20], 20)) == ([], [0])
    # while the GPU is busy for 100 anyway, copies cost nothing
    assert split(BestSplit(), missing_state([30, 30], 10, ready=[(100, 1)])) == ([], [0, 1])


def test_best_split_sends_the_expert_that_is_dear_to_the_cpu_over_the_link():
    # alone on the link, expert 1 ends at 30 while the CPU takes 20; any other split takes 40 or more
    assert split(BestSplit(), missing_state(30, [10, 40, 10])) == ([0, 2], [1])


def test_best_split_copies_the_longest_compute_first():
    # both on the link: 10 + 10 + 1 = 21 with expert 1 first (its 9 run beside the second copy), else 29
    assert split(BestSplit(), missing_state(10, [99, 99], gpu=[1, 9], importance=[2, 1])) == ([], [1, 0])
    # and knows that order when it chooses: giving expert 0 to the CPU would take 25, both in the wrong order 29
    assert split(BestSplit(), missing_state(10, [25, 99], gpu=[1, 9], importance=[2, 1])) == ([], [1, 0])
    # copies shorter than their compute go first, the shortest of them before
    assert split(BestSplit(), missing_state([4, 2, 9], [99] * 3, gpu=[5, 5, 3])) == ([], [1, 0, 2])


def test_best_split_beyond_twelve_misses_keeps_the_cheapest_for_the_cpu():
    # 14 misses of 1..14 on the CPU, 10 per copy: CPU with the m cheapest takes m (m + 1) / 2; m = 10: 55 beside 40
    cpu_side, link_side = split(BestSplit(), missing_state([10] * 14, list(range(1, 15))))
    assert sorted(cpu_side) == list(range(9)) and sorted(link_side) == list(range(9, 14))  # 45 beside 50


def test_simulated_split_lets_the_gpu_start_with_cached_experts():
    # GPU: cached 5, then CPU's tail (10 > 5?): the head would end at max(5, 30) + 4 = 34 > 10: tail to the CPU;
    # again 34 > 20: CPU; again 34 > 30: CPU; the last one: 34 <= 40: link
    state = missing_state([30] * 4, 10, gpu=4, ready=[(5, 1)])
    assert split(SimulatedSplit(), state) == ([1, 2, 3], [0])


def test_simulated_split_waits_for_copies_only_if_they_lag():
    # both copies fit behind 100 of cached work: 100 + 4 <= 110?  cached first: 100 <= 110 yes; then 104 <= 110: link;
    # then max(104, 60) + 4 = 108 <= 110: link
    state = missing_state([30] * 2, 110, gpu=4, ready=[(100, 1)])
    assert split(SimulatedSplit(), state) == ([], [0, 1])
    # cached work that ends after the CPU's first expert: the tail goes first, whatever is cached
    state = missing_state([30] * 2, 50, gpu=4, ready=[(100, 1)])
    assert split(SimulatedSplit(), state) == ([0, 1], [])


def test_simulated_split_lets_copies_follow_each_other():
    # 31 <= 50: link; the second copy arrives at 60: 61 > 50: CPU takes the last; then 61 <= 100: link
    assert split(SimulatedSplit(), missing_state([30] * 3, 50, gpu=1)) == ([2], [0, 1])


def test_simulated_split_queues_by_tokens_cached_first():
    # misses by tokens: 1 (9 tokens), 2 (5), 0 (1). Head 1: 30 + 9 = 39 > 2 (tail 0): CPU. 39 > 2 + 10: CPU takes 2.
    # 39 <= 12 + 90: link
    state = missing_state(30, [2, 90, 10], gpu=[1, 9, 5], tokens=[1, 9, 5])
    assert split(SimulatedSplit(), state) == ([2, 0], [1])
    # cached ones by tokens: 20 ns (8 tokens) before 5 ns (1 token). 20 > 12: the CPU takes the tail; then 20 <= 24,
    # 25 > 24: CPU again
    state = missing_state([99, 99], 12, gpu=1, ready=[(5, 1), (20, 8)])
    assert split(SimulatedSplit(), state) == ([0, 1], [])


def test_simulated_split_counts_experts_on_their_way_as_cached():
    state = missing_state([30], 10, gpu=4, ready=[(8, 1)])
    state.status[0, 1] = IN_FLIGHT
    assert split(SimulatedSplit(), state) == ([0], [])


def test_simulated_split_may_copy_everything_in_prefill():
    assert split(SimulatedSplit(during_prefill=False), missing_state([30, 30], 1, phase=PREFILL)) == ([], [0, 1])
    assert split(SimulatedSplit(), missing_state([30, 30], 1, phase=PREFILL)) == ([0, 1], [])


def test_greedy_balance_places_the_largest_difference_first():
    # |cpu - (30 + 2)|: 22, 28, 2, 8 -> experts 1 (60), 0 (10), 3 (40), 2 (30)
    # 1: link 32; 0: CPU 10; 3: 64 or 50: CPU 50; 2: 64 or 80: link
    assert split(GreedyBalance(), missing_state(30, [10, 60, 30, 40], gpu=2)) == ([0, 3], [1, 2])
    assert split(GreedyBalance(), missing_state([30], 30)) == ([], [0])


def test_smoe_code_gives_the_first_miss_to_the_cpu():
    # by tokens: 2, 0, 1. 2: 0 < 0 no: CPU 10. 0: 0 < 10: link 30. 1: 30 < 10 no: CPU 20
    assert split(SmoeCodeSplit(), missing_state(30, 10, tokens=[3, 1, 9])) == ([2, 1], [0])
    assert split(SmoeCodeSplit(), missing_state([30], 1000)) == ([0], [])


def test_smoe_code_serves_equal_misses_in_order_of_their_first_touch():
    """Two tokens, 2 1 and 1 0: first touched 2, 1, 0; the demand, by last touch, is 2, 1, 0 or not. 1 serves both."""
    state = missing_state(30, 10, tokens=[1, 2, 1])
    state.executed_ids = np.array([[2, 1], [1, 0]], np.int32)
    state.num_tokens, state.num_ranks = 2, 2
    decide(SmoeCodeSplit(), "assign", state)
    assert state.order[:3].tolist() == [1, 2, 0]
    state.executed_ids = np.array([[0, 1], [1, 2]], np.int32)
    decide(SmoeCodeSplit(), "assign", state)
    assert state.order[:3].tolist() == [1, 0, 2]


def test_smoe_code_underestimates_a_copy_that_the_cpu_hides():
    """Five misses, copies of 30, CPU 20. Measured: CPU 20, link 30, CPU 40, link 60, CPU 60.

    As the wait: early a copy counts 20, so CPU 20, link 20, CPU 40, link 40, CPU 60: two copies take 60, nothing is
    left after the CPU. The first estimate, 2 ms, and 0 give a mean of 1 ms: CPU, link, then the CPU; the wait is 0
    again, and the mean of 2 ms, 0 and 0 leaves the first out: copies look free, and all but the first go to the link.
    """
    state, part = missing_state([30] * 5, 20), SmoeCodeSplit()
    assert split(SmoeCodeSplit(wait_as_load=False), state) == ([0, 2, 4], [1, 3])
    memory = empty_memory(part, state)
    shares = []
    for _ in range(4):
        state.side[:] = LINK
        decide(part, "assign", state, memory)
        shares.append([e for e in range(5) if state.side[e] == LINK])
    assert shares[:3] == [[1, 3], [1], [1, 2, 3, 4]]
    # four copies of 30 behind a CPU of 20: (120 - 20) / 4 = 25 each; 2 ms and 25 are samples beside two zeros
    assert memory[:5].tolist() == [4.0 + (len(shares[3]) > 0), 2e6, 0.0, 0.0, 25.0]


def test_hybrimoe_decides_with_the_constants_of_its_release():
    """ms: GPU .5, move .418, CPU 1 and .79 once. The head ends at .918, .418 + ... against 1.79 for the tail.

    0: .918 <= 1.79 link; 1: 1.418 <= 1.79 link; 2: 1.918 > 1.79 CPU. What the machine takes changes nothing.
    """
    part = SimulatedSplit(False, 0.5, 0.41791011235117914, 1.0, 0.79)
    assert split(part, missing_state([0] * 3, 10**12)) == ([2], [0, 1])
    # Qwen2's 0.8: the first CPU expert ends at 1.59, before 1.918 as well; two tokens cost twice
    assert split(SimulatedSplit(False, 0.5, 0.418, 0.8, 0.79), missing_state([0] * 4, 1)) == ([3], [0, 1, 2])
    assert split(part, missing_state([0] * 3, 1, tokens=4)) == ([], [0, 1, 2])
    # a second CPU expert costs 1 more, without the .79: of six misses 1.79 and 2.79 are there
    assert split(part, missing_state([0] * 6, 1)) == ([4, 5], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"gpu_ms": 0.5}, "policy.assignment.move_ms=null: give all of gpu_ms, move_ms, cpu_ms_per_token, or none"),
        ({"cpu_ms_once": 1.0}, "policy.assignment.cpu_ms_once=1: must be 0 where the machine's costs count"),
        ({"gpu_ms": -1.0, "move_ms": 1.0, "cpu_ms_per_token": 1.0}, "policy.assignment.gpu_ms=-1: must be between 0"),
    ],
)
def test_half_given_constants_are_refused(knobs, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        SimulatedSplit(**knobs)


@pytest.mark.parametrize("part", [CheaperSide(balance=True), BestSplit(), SimulatedSplit(), GreedyBalance()])
def test_a_hopeless_cpu_gets_nothing(part):
    assert split(part, missing_state([30] * 3, 10**9, gpu=1))[0] == []


def test_reuse_split_copies_what_is_worth_keeping_and_as_much_as_ends_soonest():
    state = missing_state([40] * 4, 30)
    state.priority[0, :4] = [0.1, 0.4, 0.2, 0.3]
    assert split(ReuseSplit(), state) == ([2, 0], [1, 3])  # ends 120, 90, 80, 120, 160 with 0 to 4 copies
    assert split(ReuseSplit(), missing_state([40] * 2, 80)) == ([], [0, 1])  # 80 either way: the most copies
    assert split(ReuseSplit(), missing_state([40] * 2, 30, ready=[(200, 1)])) == ([], [0, 1])  # hidden by the GPU


@pytest.mark.parametrize(
    ("left_ns", "on_cpu", "on_link"),
    [(10, [1], [0]), (70, [0], [1])],  # 45: the CPU beside the copy; 50: beside the piece, then 40
)
def test_reuse_split_takes_a_late_expert_where_it_ends_first(left_ns, on_cpu, on_link):
    state = missing_state([left_ns, 40], 45)
    state.status[0, 0], state.late_left_ns, state.link_left_ns = IN_FLIGHT, left_ns, min(left_ns, 10)
    assert split(ReuseSplit(), state) == (on_cpu, on_link)
