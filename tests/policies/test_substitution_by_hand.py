"""Each substitution rule on a state small enough to check by hand, run as plain Python."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.hashing import uniform
from policies.state import ABSENT, DECODE, DROPPED, IN_FLIGHT, LOW, PREFILL, RESIDENT
from policies.substitution.adaptive_top_k import PUBLISHED, AdaptiveTopK
from policies.substitution.bonus_and_drop import BonusAndDrop
from policies.substitution.buddy import Buddy
from policies.substitution.cache_prior import CachePrior
from policies.substitution.critical_path import CriticalPath
from policies.substitution.cumulative_threshold import CumulativeThreshold
from policies.substitution.expert_budget import ExpertBudget
from policies.substitution.importance_plus import ImportancePlus
from policies.substitution.max_rank import MaxRank
from policies.substitution.mixed_precision import MixedPrecision
from policies.substitution.random_replacement import RandomReplacement
from policies.substitution.replace_all_missing import ReplaceAllMissing
from policies.substitution.score_band import ScoreBand
from policies.substitution.similarity import Similarity
from policies.substitution.skip import Skip
from policies.substitution.smoe_code import SmoeCode, set_order
from tests.policies.hand import decide, routed_state
from tests.support.random_traces import ids_trace, random_trace
from traces.errors import UserError

# k = 3; S_4 = 0.12 (expert 3); alpha = 0.35: low-score below 0.162, band from 0.078 to 0.12
SCORES = [0.30, 0.15, 0.13, 0.12, 0.10, 0.09, 0.07, 0.04]


def executed(part, state, memory=None):
    """What the tokens execute, one list per token."""
    state.num_demand = len(set(state.ids.ravel().tolist()))
    state.demand[: state.num_demand] = sorted(set(state.ids.ravel().tolist()))
    decide(part, "substitute", state, memory)
    return state.executed_ids[: state.num_tokens].tolist()


def weighted_state(weights, resident=(), phase=DECODE):
    """One token that executes experts 0, 1, 2 ... with these weights; twice as many experts."""
    count = len(weights)
    state = routed_state(np.full(2 * count, np.nan), list(range(count)), list(resident), phase)
    state.weights[0] = weights
    return state


def test_missing_low_scores_take_the_best_resident_inside_the_band():
    state = routed_state(SCORES, [0, 1, 2], [0, 4, 5, 6])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 4, 5]


def test_the_next_expert_itself_may_substitute_unless_the_knob_says_no():
    state = routed_state(SCORES, [0, 1, 2], [3, 4])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 3, 4]
    state = routed_state(SCORES, [0, 1, 2], [3, 4])
    decide(ScoreBand(include_next=False), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 4, 2]


def test_resident_and_top_score_experts_are_kept():
    state = routed_state(SCORES, [0, 1, 2], [1, 3])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 1, 3]  # 0 is missing but top-score


def test_what_finds_no_substitute_is_supplied_as_usual():
    state = routed_state(SCORES, [0, 1, 2], [6, 7])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 1, 2]


def test_another_tokens_top_score_expert_may_substitute_even_for_an_earlier_token():
    second = [0.02, 0.02, 0.02, 0.02, 0.50, 0.20, 0.12, 0.10]  # top-score: 4, 5; S_4 = 0.10
    state = routed_state([SCORES, second], [[0, 1, 2], [4, 5, 6]], [])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 4, 5]


def test_score_band_prefill_is_left_alone_unless_asked():
    state = routed_state(SCORES, [0, 1, 2], [3, 4], PREFILL)
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 1, 2]
    decide(ScoreBand(during_prefill=True), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 3, 4]


def test_alpha_zero_substitutes_nothing():
    state = routed_state(SCORES, [0, 1, 2], [3, 4, 5])
    decide(ScoreBand(alpha=0.0), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 1, 2]


# SMoE's released code: strict band (0.09, 0.12) at alpha 0.25, low-score below 0.15, first candidate of a Python set


def test_the_order_of_candidates_is_that_of_a_python_set():
    random = np.random.default_rng(1)
    for _ in range(300):
        count, most = int(random.integers(1, 41)), int(random.choice([41, 64, 300]))
        added = random.permutation(most)[:count].astype(np.int32)
        yielded: set[int] = set()
        for number in added.tolist():
            yielded.add(number)
        set_order(added, count, np.zeros(8 * count + 8, np.int32))
        assert added.tolist() == list(yielded)


def test_smoe_code_takes_the_first_that_a_set_yields():
    """Of 3 and 8 in the band the set has 8 in its place 0 and 3 in its place 3."""
    scores = [0.30, 0.20, 0.13, 0.10, 0.03, 0.03, 0.03, 0.02, 0.11, 0.12]
    assert executed(SmoeCode(), routed_state(scores, [0, 1, 2], [3, 8])) == [[0, 1, 8]]
    assert executed(SmoeCode(), routed_state(scores, [0, 1, 2], [3])) == [[0, 1, 3]]


def test_smoe_code_takes_the_lowest_id_strictly_inside_the_band():
    scores = [0.30, 0.14, 0.13, 0.12, 0.10, 0.11, 0.07, 0.03]
    assert executed(SmoeCode(), routed_state(scores, [0, 1, 2], [3, 4, 5])) == [[0, 4, 5]]  # 3 = S_4 never


def test_smoe_code_excludes_both_edges_of_the_band():
    scores = [0.5, 0.15, 0.125, 0.09375, 0.03125]  # S_3 = 1/8; lower edge at alpha 1/4: 3/32 exactly
    assert executed(SmoeCode(alpha=0.25), routed_state(scores, [0, 1], [2, 3])) == [[0, 1]]
    assert executed(SmoeCode(alpha=0.26), routed_state(scores, [0, 1], [2, 3])) == [[0, 3]]
    scores[1] = 0.15625  # 5/32 = (1 + 1/4) * 1/8: top-score at 1/4, low-score above
    assert executed(SmoeCode(alpha=0.25), routed_state(scores, [0, 1], [2, 4])) == [[0, 1]]
    assert executed(SmoeCode(alpha=0.80), routed_state(scores, [0, 1], [2, 4])) == [[0, 4]]


def test_smoe_code_counts_another_tokens_top_scores_and_leaves_prefill_alone():
    second = [0.02, 0.02, 0.02, 0.02, 0.50, 0.20, 0.12, 0.10]  # top-score: 4, 5
    state = routed_state([SCORES, second], [[0, 1, 2], [4, 5, 6]], [])
    assert executed(SmoeCode(alpha=0.35), state) == [[0, 4, 5], [4, 5, 6]]
    state = routed_state([SCORES, second], [[0, 1, 2], [4, 5, 6]], [], PREFILL)
    assert executed(SmoeCode(alpha=0.35), state) == [[0, 1, 2], [4, 5, 6]]


def test_skip_drops_what_the_band_would_replace_and_on_request_every_low_miss():
    assert executed(Skip(), routed_state(SCORES, [0, 1, 2], [4])) == [[0, DROPPED, 2]]
    assert executed(Skip(without_substitute=True), routed_state(SCORES, [0, 1, 2], [4])) == [[0, DROPPED, DROPPED]]
    assert executed(Skip(without_substitute=True), routed_state(SCORES, [0, 1, 2], [2])) == [[0, DROPPED, 2]]
    assert executed(Skip(include_next=False), routed_state(SCORES, [0, 1, 2], [3])) == [[0, 1, 2]]


def test_a_budget_keeps_the_experts_with_the_most_gate_mass_over_the_tokens():
    """Masses of two tokens: 0 has .5, 1 has .3 + .3, 2 has .6 and comes with the lower id of equals behind 1."""
    scores, ids = [[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]], [[0, 1], [2, 1]]
    assert executed(ExpertBudget(2), routed_state(scores, ids, [])) == [[DROPPED, 1], [2, 1]]
    assert executed(ExpertBudget(1), routed_state(scores, ids, [])) == [[DROPPED, 1], [DROPPED, 1]]
    assert executed(ExpertBudget(3), routed_state(scores, ids, [])) == ids
    assert executed(ExpertBudget(1), routed_state(scores, ids, [], PREFILL)) == ids
    assert executed(ExpertBudget(1, during_prefill=True), routed_state(scores, ids, [], PREFILL)) != ids


def test_a_budget_leaves_a_token_its_best_expert():
    state = routed_state([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]], [[0], [2]], [])
    assert executed(ExpertBudget(1), state) == [[0], [2]]
    with pytest.raises(UserError, match=r"policy.substitution.budget=0"):
        ExpertBudget(0)


def test_skip_leaves_a_token_its_best_expert():
    flat = [0.2, 0.19, 0.18, 0.17, 0.16, 0.1]  # S_3 = 0.18: both are low-score
    assert executed(Skip(), routed_state(flat, [0, 1], [2, 3])) == [[0, DROPPED]]


def test_replace_all_missing_takes_the_best_resident_whatever_its_score():
    assert executed(ReplaceAllMissing(), routed_state(SCORES, [0, 1, 2], [6, 7])) == [[6, 7, 2]]
    assert executed(ReplaceAllMissing(), routed_state(SCORES, [0, 1, 2], [0, 7, 5])) == [[0, 5, 7]]


def test_experts_on_the_link_count_as_missing():
    state = routed_state(SCORES, [0, 1, 2], [5])
    state.status[0, 1] = IN_FLIGHT
    assert executed(ReplaceAllMissing(), state) == [[5, 1, 2]]


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_random_replacement_draws_by_hash_among_free_residents_for_low_scores_only():
    state = routed_state(SCORES, [0, 1, 2], [3, 5, 7])
    state.seed = 4
    free = [3, 5, 7]
    first = free.pop(int(uniform(4, state.now, 0, 1) * 3))
    second = free[int(uniform(4, state.now, 0, 2) * 2)]
    assert executed(RandomReplacement(), state) == [[0, first, second]]


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_random_replacement_draws_every_resident_equally_often():
    counts = np.zeros(8)
    for now in range(1, 1201):
        state = routed_state(SCORES, [0, 1, 2], [2, 4, 6, 7])
        state.now = now
        counts[executed(RandomReplacement(), state)[0][1]] += 1
    assert counts[[4, 6, 7]] == pytest.approx(400, abs=60) and counts.sum() == counts[[4, 6, 7]].sum()


def test_similarity_takes_the_most_similar_free_resident_of_the_layer():
    part = Similarity()
    alike = np.zeros((2, 8, 8), np.float16)
    alike[1, 1, [4, 5, 6]] = [0.25, 0.5, 0.75]
    alike[1, 2, [4, 5, 6]] = [0.25, 0.5, 0.75]
    alike[0, 1, 4] = 1.0  # another layer
    state = routed_state(SCORES, [0, 1, 2], [4, 5, 6])
    state.layer, state.num_layers = 1, 2
    state.status = np.repeat(state.status, 2, axis=0)
    memory = part.initial_memory(None, alike, None)
    assert memory.shape == (part.memory_size(2, 8, 3),)
    assert executed(part, state, memory) == [[0, 6, 5]]  # 0 is missing too, but top-score
    state.executed_ids[:] = state.ids
    assert executed(Similarity(min_similarity=0.6), state, memory) == [[0, 6, 2]]


def test_buddy_learns_how_often_experts_are_chosen_together():
    part = Buddy()
    memory = part.fit(ids_trace([[0, 1], [1, 0], [1, 2], [3, 2]], 4))
    assert memory.shape == (part.memory_size(1, 4, 2),)
    assert memory.reshape(4, 4).tolist() == [[0, 2, 0, 0], [2, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]


def together(*pairs):
    """Counts [1, 8, 8] of experts chosen together."""
    counts = np.zeros((8, 8))
    for one, other, times in pairs:
        counts[one, other] = counts[other, one] = times
    return counts.reshape(-1)


def test_buddy_takes_the_most_frequent_companion_up_to_its_limit():
    memory = together((0, 5, 3), (0, 6, 4), (1, 6, 9), (1, 5, 2), (2, 4, 1))
    residents = [4, 5, 6]
    part = Buddy(max_per_token=3, max_missing=1.0)
    state = routed_state(SCORES, [0, 1, 2], residents)
    assert executed(part, state, memory) == [[0, 1, 2]]  # every demanded expert is missing: bypass
    state = routed_state(SCORES, [0, 1, 2], [*residents, 2])
    assert executed(part, state, memory) == [[6, 5, 2]]
    state = routed_state(SCORES, [0, 1, 2], [*residents, 2])
    assert executed(Buddy(), state, memory) == [[6, 1, 2]]  # one per token
    state = routed_state(SCORES, [0, 1, 2], [*residents, 2])
    assert executed(Buddy(max_missing=0.6), state, memory) == [[0, 1, 2]]  # 2/3 of the demand is missing


def test_buddy_replaces_nothing_for_a_certain_token_or_without_a_companion():
    memory = together((0, 5, 3))
    uniform_scores, certain = [0.125] * 8, [0.93] + [0.01] * 7
    assert executed(Buddy(min_entropy=0.99), routed_state(uniform_scores, [0, 1, 2], [1, 5]), memory) == [[5, 1, 2]]
    # entropy of ``certain``: 0.93 * 0.0726 + 0.07 * 4.605 = 0.39; over ln 8: 0.19
    assert executed(Buddy(min_entropy=0.20), routed_state(certain, [0, 1, 2], [1, 5]), memory) == [[0, 1, 2]]
    assert executed(Buddy(min_entropy=0.18), routed_state(certain, [0, 1, 2], [1, 5]), memory) == [[5, 1, 2]]
    assert executed(Buddy(), routed_state(certain, [0, 1, 2], [1, 4]), memory) == [[0, 1, 2]]


# Powers of two, so that logits lie ln 2 apart: ranges and bonuses come out by hand
STEPS = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]


def test_cache_prior_ranks_residents_up_by_a_share_of_the_mean_range():
    # range = 3 ln 2; bonus 0.5 * 3 ln 2 lifts expert 3 (z = -4 ln 2) to -2.5 ln 2: above expert 2 (-3), below 1 (-2)
    part = CachePrior(bonus=0.5, keep=1)
    memory = np.zeros(2)
    assert executed(part, routed_state(STEPS, [0, 1, 2], [3]), memory) == [[0, 1, 3]]
    assert memory == pytest.approx([1, 3 * np.log(2)])
    assert executed(CachePrior(bonus=0.3, keep=1), routed_state(STEPS, [0, 1, 2], [3])) == [[0, 1, 2]]
    # 0.5 with k = 2 would also overtake nobody: -2.5 stays below -2
    assert executed(part, routed_state(STEPS, [0, 1], [3])) == [[0, 1]]
    assert executed(CachePrior(bonus=0.9, keep=1), routed_state(STEPS, [0, 1], [3])) == [[0, 3]]  # -4 + 2.7 > -2
    assert executed(CachePrior(bonus=0.9, keep=2), routed_state(STEPS, [0, 1], [3])) == [[0, 1]]  # 1 has it too
    # -1, -2, -3 + 2.7, -4 + 2.7: expert 2, then 0
    assert executed(CachePrior(bonus=0.9, keep=0), routed_state(STEPS, [0, 1], [2, 3])) == [[0, 2]]


def test_cache_prior_averages_the_range_over_tokens_plainly_or_exponentially():
    flat = [0.2] * 5
    for decay, mean in ((0.0, 1.5), (0.75, 2.25)):  # in ln 2: of 3 and 0; 0.75 * 3 + 0.25 * 0
        memory = np.zeros(2)
        part = CachePrior(decay=decay)
        executed(part, routed_state(STEPS, [0, 1], []), memory)
        executed(part, routed_state(flat, [0, 1], []), memory)
        assert memory == pytest.approx([2, mean * np.log(2)], rel=1e-5)


def test_cache_prior_keeps_routed_experts_at_their_rank():
    state = routed_state([0.4, 0.3, 0.2, 0.1], [0, 1, 2], [2, 3])
    assert executed(CachePrior(bonus=1.0, keep=0), state) == [[0, 3, 2]]  # order by rank with bonus is 2, 3, 0


def test_max_rank_prefers_residents_among_the_best():
    assert executed(MaxRank(max_rank=5, keep=1), routed_state(SCORES, [0, 1, 2], [4, 6])) == [[0, 1, 4]]
    assert executed(MaxRank(max_rank=7, keep=1), routed_state(SCORES, [0, 1, 2], [4, 6])) == [[0, 4, 6]]
    assert executed(MaxRank(max_rank=7, keep=2), routed_state(SCORES, [0, 1, 2], [4, 6])) == [[0, 1, 4]]
    assert executed(MaxRank(max_rank=1, keep=0), routed_state(SCORES, [0, 1, 2], [4, 6])) == [[0, 1, 2]]
    assert executed(MaxRank(max_rank=99, keep=0), routed_state(SCORES, [0, 1, 2], [1, 6, 7])) == [[6, 1, 7]]


def test_cumulative_threshold_widens_until_the_mass_is_held():
    # 0.30 0.45 0.58 0.70 0.80 0.89 0.96 1.00
    residents = [4, 6]
    assert executed(CumulativeThreshold(mass=0.69, keep=1), routed_state(SCORES, [0, 1, 2], residents)) == [[0, 1, 2]]
    assert executed(CumulativeThreshold(mass=0.75, keep=1), routed_state(SCORES, [0, 1, 2], residents)) == [[0, 1, 4]]
    assert executed(CumulativeThreshold(mass=0.9, keep=1), routed_state(SCORES, [0, 1, 2], residents)) == [[0, 4, 6]]


def test_adaptive_top_k_drops_small_shares_but_never_the_best():
    # threshold sqrt(0.01 / 0.25) = 0.2
    part = AdaptiveTopK(tolerance=0.01, sensitivity=0.25)
    assert executed(part, weighted_state([0.81, 0.19])) == [[0, DROPPED]]
    assert executed(part, weighted_state([0.79, 0.21])) == [[0, 1]]
    assert executed(part, weighted_state([1.58, 0.42])) == [[0, 1]]  # shares count, not weights
    assert executed(part, weighted_state([0.15] * 6)) == [[0, 1, 2, 3, 4, DROPPED]]  # 1/6 < 0.2 <= 2/6
    assert executed(part, weighted_state([0.7, 0.15, 0.05, 0.05, 0.04, 0.01])) == [[0, 1] + [DROPPED] * 4]  # 0.15
    assert executed(part, weighted_state([0.81, 0.19], resident=[1])) == [[0, DROPPED]]
    keeping = AdaptiveTopK(tolerance=0.01, sensitivity=0.25, only_missing=True)
    assert executed(keeping, weighted_state([0.81, 0.19], resident=[1])) == [[0, 1]]
    assert executed(part, weighted_state([0.81, 0.19], phase=PREFILL)) == [[0, 1]]


def test_adaptive_top_k_has_a_sensitivity_for_every_layer():
    """Mixtral's 32 as published, by depth elsewhere. First and last threshold: .0103, .467."""
    part, geometry = AdaptiveTopK(), replace(random_trace(0).geometry, num_layers=32)
    memory = part.initial_memory(geometry, None, None)
    assert memory.tolist() == list(PUBLISHED)
    assert part.initial_memory(replace(geometry, num_layers=4), None, None).tolist() == [
        PUBLISHED[i] for i in (0, 8, 16, 24)
    ]
    for layer, second, kept in ((0, 0.011, True), (0, 0.010, False), (31, 0.47, True), (31, 0.46, False)):
        state = weighted_state([1 - second, second])
        state.layer, state.status = layer, np.zeros((32, 8), np.uint8)
        decide(part, "substitute", state, memory)
        assert (state.executed_ids[0, 1] != DROPPED) == kept, (layer, second)


def test_scores_stand_in_for_absent_weights():
    state = weighted_state([np.nan, np.nan])
    state.scores[0, :2] = [0.4, 0.05]
    assert executed(AdaptiveTopK(tolerance=0.04, sensitivity=1.0), state) == [[0, DROPPED]]  # 1/9 < 0.2


def test_mixed_precision_goes_by_the_weight_of_better_ranks():
    # before each rank: 0, 0.5, 0.75, 0.9375
    state = weighted_state([0.5, 0.25, 0.1875, 0.0625])
    assert executed(MixedPrecision(), state) == [[0, 1, 2, DROPPED]]
    assert state.degraded.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_mixed_precision_counts_its_thresholds_as_inside():
    state = weighted_state([0.5, 0.25, 0.1875, 0.0625])
    assert executed(MixedPrecision(full_until=0.5, low_until=0.75), state) == [[0, 1, 2, DROPPED]]
    assert state.degraded.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_mixed_precision_leaves_resident_experts_alone_and_uses_low_copies():
    state = weighted_state([0.5, 0.25, 0.1875, 0.0625], resident=[2, 3])
    assert executed(MixedPrecision(), state) == [[0, 1, 2, 3]] and not state.degraded.any()
    state = weighted_state([0.5, 0.25, 0.1875, 0.0625])
    state.status[0, :4] = [ABSENT, LOW, LOW, LOW]
    assert executed(MixedPrecision(), state) == [[0, 1, 2, 3]]
    assert state.degraded.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]  # 1 is wanted in full


def test_one_token_that_wants_full_precision_decides_for_the_batch():
    state = routed_state(np.full((2, 4), np.nan), [[0, 1], [1, 2]], [])
    state.weights[:] = [[0.75, 0.25], [0.75, 0.25]]
    assert executed(MixedPrecision(), state) == [[0, 1], [1, 2]]
    assert state.degraded.tolist() == [0, 0, 1, 0]


def test_mixed_precision_never_drops_the_best_expert():
    state = weighted_state([1.0, 0.0])
    assert executed(MixedPrecision(full_until=0.0, low_until=0.0), state) == [[0, DROPPED]]


def test_bonus_and_drop_lifts_recent_residents_and_drops_missing_low_ranks():
    part = BonusAndDrop(keep=1)
    state = routed_state(STEPS, [0, 1, 2], [1, 3, 4])
    state.now = 11
    memory = np.array([0.0, 1.0, 0.0, 6.0, 11.0])  # ages of 1, 3, 4: 10, 5, 0 -> a = 0, 0.5, 1
    # gap = 2 ln 2. z in ln 2: 0: -1, 1: -2, 2: -3, 3: -4 + 1, 4: -4 + 2 -> order 0, 1, 4 (ties to the lower id)
    assert executed(part, state, memory) == [[0, 1, 4]]
    assert memory.tolist() == [11.0, 11.0, 0.0, 6.0, 11.0]


def test_bonus_and_drop_keeps_the_first_ranks_and_all_residents():
    assert executed(BonusAndDrop(keep=2), routed_state(STEPS, [0, 1, 2], [])) == [[0, 1, DROPPED]]
    assert executed(BonusAndDrop(keep=1), routed_state(STEPS, [0, 1, 2], [2])) == [[0, DROPPED, 2]]
    # constant 1: expert 2 rises by the gap of 2 ln 2 from -3 to -1, beside expert 0
    assert executed(BonusAndDrop(keep=1, constant=1.0), routed_state(STEPS, [0, 1, 2], [2])) == [[0, DROPPED, 2]]
    assert executed(BonusAndDrop(keep=1, constant=1.0), routed_state(STEPS, [0, 1, 2], [3])) == [[0, 3, DROPPED]]


def test_bonus_and_drop_watches_prefill_without_touching_it():
    memory = np.zeros(5)
    state = routed_state(STEPS, [0, 1, 2], [3], PREFILL)
    state.now = 3
    assert executed(BonusAndDrop(keep=1), state, memory) == [[0, 1, 2]]
    assert memory.tolist() == [3.0, 3.0, 3.0, 0.0, 0.0]


# importance_plus: experts 0, 1, 2 are routed, their scores sum to 0.58: loss 0.05 allows 0.029, loss 0.1 allows 0.058


def test_importance_plus_the_lowest_missing_expert_goes_first_and_takes_the_best_resident_one() -> None:
    state = routed_state(SCORES, [0, 1, 2], [3, 4, 5])
    assert executed(ImportancePlus(loss=0.05), state) == [[0, 1, 3]]  # .13 - .12 is little, .15 - .10 is too much
    assert executed(ImportancePlus(loss=0.1), routed_state(SCORES, [0, 1, 2], [3, 4, 5])) == [[0, 4, 3]]


def test_the_best_experts_are_always_executed() -> None:
    assert executed(ImportancePlus(loss=1.0, keep=1), routed_state(SCORES, [0, 1, 2], [3, 4, 5])) == [[0, 4, 3]]
    assert executed(ImportancePlus(loss=1.0, keep=0), routed_state(SCORES, [0, 1, 2], [3, 4, 5])) == [[5, 4, 3]]
    assert executed(ImportancePlus(loss=1.0, keep=2), routed_state(SCORES, [0, 1, 2], [3, 4, 5])) == [[0, 1, 3]]


def test_resident_experts_stay_and_substitutes_may_run_out() -> None:
    assert executed(ImportancePlus(loss=1.0), routed_state(SCORES, [0, 1, 2], [2, 7])) == [[0, 7, 2]]
    assert executed(ImportancePlus(loss=1.0), routed_state(SCORES, [0, 1, 2], [7])) == [[0, 1, 7]]
    assert executed(ImportancePlus(loss=1.0), routed_state(SCORES, [0, 1, 2], [0])) == [[0, 1, 2]]


def test_importance_plus_leaves_prefill_alone_unless_asked() -> None:
    assert executed(ImportancePlus(), routed_state(SCORES, [0, 1, 2], [3], PREFILL)) == [[0, 1, 2]]
    asked = ImportancePlus(during_prefill=True)
    assert executed(asked, routed_state(SCORES, [0, 1, 2], [3], PREFILL)) == [[0, 1, 3]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.5), st.integers(0, 4))
def test_no_replacement_loses_more_than_its_share(seed: int, loss: float, keep: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.full(16, 0.7)).astype(np.float32)
    routed = np.argsort(-scores, kind="stable")[:4].tolist()
    resident = rng.permutation(16)[: rng.integers(0, 17)].tolist()
    state = routed_state(scores.tolist(), routed, resident, DECODE)
    (found,) = executed(ImportancePlus(loss=loss, keep=keep), state)
    assert len(set(found)) == 4 and found[:keep] == routed[:keep]
    for old, new in zip(routed, found, strict=True):
        if old != new:
            assert old not in resident and state.status[0, new] == RESIDENT and new not in routed
            assert float(scores[old]) - float(scores[new]) <= loss * float(scores[routed].sum()) + 1e-6


@pytest.mark.parametrize(
    "make",
    [
        lambda: SmoeCode(alpha=1.5),
        lambda: ScoreBand(alpha=-0.1),
        lambda: ImportancePlus(loss=2.0),
        lambda: Skip(alpha=-0.1),
        lambda: RandomReplacement(alpha=2),
        lambda: Similarity(min_similarity=-2),
        lambda: Buddy(min_entropy=1.5),
        lambda: Buddy(max_missing=-1),
        lambda: CachePrior(bonus=-1),
        lambda: CachePrior(decay=1.5),
        lambda: MaxRank(max_rank=0),
        lambda: CumulativeThreshold(mass=2),
        lambda: AdaptiveTopK(sensitivity=0),
        lambda: MixedPrecision(full_until=0.9, low_until=0.6),
        lambda: BonusAndDrop(keep=0),
        lambda: BonusAndDrop(constant=2.0),
    ],
)
def test_knobs_out_of_range_are_refused_in_one_sentence(make):
    with pytest.raises(UserError, match=r"policy\.substitution\.\w+=.*: must be between"):
        make()


def test_nothing_is_touched_where_every_expert_is_chosen():
    for part in (SmoeCode(), Skip(), ReplaceAllMissing(), RandomReplacement(), CachePrior(), MaxRank()):
        assert executed(part, routed_state([0.6, 0.3, 0.1], [0, 1, 2], [])) == [[0, 1, 2]]


def test_resident_experts_of_the_router_stay():
    for part in (SmoeCode(alpha=1.0), Skip(), ReplaceAllMissing(), RandomReplacement(), CachePrior(bonus=1.0)):
        state = routed_state(SCORES, [0, 1, 2], list(range(8)))
        assert executed(part, state) == [[0, 1, 2]] and state.status.min() == RESIDENT


# critical_path: 0, 1, 2 carry .5, .3, .2 of the weight; a copy takes 100 ns, an expert on the CPU 100, on the GPU 0.
# Three misses end after 200 (one side has two), two or one after 100, none after 0: in copies 2, 1, 1, 0. Harm that is
# left: 2 (.13, by 3) .2 * (1 - .12 / .13) = .0154; 1 (.15, by 4) .3 * (1 - .10 / .15) = .1; 0 (.30, by 5) .5 * .7 = .35


def priced_state(resident, weights=(0.5, 0.3, 0.2), scores=SCORES):
    state = routed_state(scores, [0, 1, 2], resident)
    state.weights[0], state.load_ns[0] = weights, 100
    state.cpu_ns[0, 1:] = 100
    return state


@pytest.mark.parametrize(
    ("price", "keep", "expected"),
    [
        (3.0, 1, [0, 1, 3]),  # 2, 1.05, 1.35: the last two end together, so that the second buys nothing
        (70.0, 1, [0, 1, 2]),  # 1 + 70 * .0154 is more than 2
        (0.1, 1, [0, 1, 3]),
        (0.1, 0, [5, 4, 3]),  # all of them: 0 + .1 * .4654
    ],
)
def test_critical_path_gives_up_the_mass_that_shortens_the_layer(price, keep, expected):
    memory = np.zeros(1)
    part = CriticalPath(price=price, keep=keep, loss=0.15, rate=2.0)
    assert executed(part, priced_state([3, 4, 5]), memory) == [expected if keep else [3, 4, 5]]
    lost = sum(w for w, e, r in zip((0.5, 0.3, 0.2), expected, [0, 1, 2], strict=True) if e != r)
    assert memory[0] == pytest.approx(2 * (lost - 0.15))


def test_critical_path_moves_its_price_towards_the_budget():
    part, memory = CriticalPath(price=60.0, loss=0.15, rate=2.0), np.zeros(1)
    found = [executed(part, priced_state([3, 4, 5]), memory)[0][2] for _ in range(60)]
    assert 0.2 * found.count(3) / 60 == pytest.approx(0.15, abs=0.02)
    assert executed(CriticalPath(loss=0.0), priced_state([3, 4, 5])) == [[0, 1, 2]]


def test_critical_path_spends_a_share_of_what_score_bands_would_give_up():
    """Bands of .35 replace 1 (.15) and 2 (.13), which carry .5 of the weight; of none only what is resident stands."""
    memory = np.zeros(1)
    part = CriticalPath(price=70.0, share=0.9, rate=2.0)
    assert executed(part, priced_state([3, 4, 5]), memory) == [[0, 1, 2]]
    assert memory[0] == pytest.approx(2 * (0 - 0.9 * 0.5))
    memory[0] = 0.0
    state = priced_state([0, 3])
    state.cpu_ns[:] = 10_000
    assert executed(CriticalPath(price=0.1, share=0.9, rate=2.0), state, memory) == [[0, 1, 3]]
    assert memory[0] == pytest.approx(2 * (0.2 - 0.9 * 0.3)), "one stand-in, which the better of the two takes first"
    memory[0] = 0.0
    executed(part, priced_state([0, 1, 2]), memory)
    assert memory[0] == 0.0, "all is there: nothing is lost, nothing is earned"
    assert part.band() == 0.35 and CriticalPath(loss=0.1).band() is None
    assert executed(CriticalPath(share=0.0), priced_state([3, 4, 5])) == [[0, 1, 2]]


def test_critical_path_asks_only_for_what_stands_ready():
    part = CriticalPath(price=0.1)
    assert executed(part, priced_state([])) == [[0, 1, 2]]
    silent = [0.3, 0.15, 0.13, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert executed(part, priced_state([3, 4], scores=silent)) == [[0, 1, 2]]  # no score, no stand-in
    state = priced_state([3])
    state.cpu_ns[:] = 10_000  # over the link alone 3, 2, 1 copies; one stand-in for two that could go
    assert executed(part, state) == [[0, 1, 3]]


def test_critical_path_counts_the_copy_under_way_and_no_cpu_where_there_is_none():
    state = priced_state([3, 4, 5])
    state.status[0, 1], state.late_left_ns, state.link_left_ns = IN_FLIGHT, 10, 10
    assert executed(CriticalPath(price=10.0), state) == [[0, 1, 2]]  # 110 on the link, then 100 on the CPU: 1.1, 1.15
    state = priced_state([3, 4, 5])
    assert executed(CriticalPath(price=3.0, cpu=False), state) == [[0, 3, 4]]  # 3, 2.05, 1.35
    assert "cpu" not in CriticalPath(cpu=False).all_needs() and "cpu" in CriticalPath().all_needs()


def test_an_expert_of_two_tokens_goes_only_if_both_can_spare_it():
    scores = [SCORES, SCORES]
    state = routed_state(scores, [[0, 1, 2], [0, 3, 2]], [3, 4])
    state.weights[:], state.load_ns[0], state.cpu_ns[:] = (0.5, 0.3, 0.2), 100, 10_000
    assert executed(CriticalPath(price=0.1), state) == [[0, 3, 4], [0, 3, 4]]  # 2 first (.2), then 1 (.15 of the step)
    state = routed_state(scores, [[0, 1, 2], [0, 3, 2]], [3])
    state.weights[:], state.load_ns[0], state.cpu_ns[:] = (0.5, 0.3, 0.2), 100, 10_000
    assert executed(CriticalPath(price=0.1), state) == [[0, 3, 2], [0, 3, 2]]  # the second token has no stand-in
