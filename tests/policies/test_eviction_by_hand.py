"""Each eviction rule on a state small enough to check by hand, run as plain Python: no compiler involved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.eviction.activation_prior import ActivationPrior
from policies.eviction.aged_lfu import AgedLfu
from policies.eviction.belady import Belady
from policies.eviction.edgemoe import EdgeMoe
from policies.eviction.expected_reuse import ExpectedReuse
from policies.eviction.fifo import Fifo
from policies.eviction.frozen_popularity import FrozenPopularity
from policies.eviction.in_cache_visits import InCacheVisits
from policies.eviction.latency_oracle import LatencyOracle
from policies.eviction.least_stale import LeastStale
from policies.eviction.lfu import Lfu
from policies.eviction.lfu_lifetime import LfuLifetime
from policies.eviction.lru import Lru
from policies.eviction.mrs import Mrs
from policies.eviction.probability_visits import ProbabilityVisits
from policies.eviction.random import Random
from policies.eviction.score_window import ScoreWindow
from policies.eviction.smoe_code import SmoeCode
from policies.eviction.weighted_mix import WeightedMix
from policies.priorities import nearness, with_recency
from policies.state import ABSENT, DECODE, NEVER, PREFILL, RESIDENT, plain_state
from tests.policies.hand import decide, routed_state
from tests.support.random_traces import routed
from traces.errors import UserError


class Cache:
    """One rule, its memory and a plain state; ``step`` executes experts, ``order`` lists residents worst first."""

    def __init__(self, part, layers=1, experts=6, ranks=2, tokens=8):
        self.part, self.state = part, plain_state(layers, experts, ranks, tokens, seed=5)
        self.memory = np.zeros(part.memory_size(layers, experts, ranks))
        self.state.now = 0

    def call(self, decision, *more):
        return getattr(self.part, decision)(self.state, self.memory, *more)

    def load(self, layer, *experts):
        """Warm content or prefetches: their copies start and arrive."""
        for expert in experts:
            self.state.status[layer, expert] = RESIDENT
            self.call("admit", layer, expert, True)

    def step(self, layer, *experts, scores=None, tokens=1):
        """One layer step that executes ``experts`` in this order; what is missing is admitted without evicting."""
        state = self.state
        state.layer, state.num_tokens, state.num_executed = layer, tokens, len(experts)
        state.now += 1
        state.executed[: len(experts)], state.executed_tokens[: len(experts)] = experts, tokens
        if scores is not None:
            state.scores[:tokens] = scores
        self.call("touch")
        for expert in experts:
            if state.status[layer, expert] == ABSENT:
                state.status[layer, expert] = RESIDENT
                self.call("admit", layer, expert, False)

    def evict(self, layer, expert):
        self.state.status[layer, expert] = ABSENT

    def order(self, layer=0):
        """Residents of all layers as (layer, expert), the next victim first."""
        self.call("refresh", layer)
        keys = np.argwhere(self.state.status == RESIDENT).tolist()
        return [tuple(key) for key in sorted(keys, key=lambda key: (self.state.priority[tuple(key)], *key))]

    def experts(self, layer=0):
        """The same for a model of one layer: experts only."""
        return [expert for _, expert in self.order(layer)]


def test_lru_orders_the_step_by_last_touch_and_steps_by_time():
    state = plain_state(1, 4, 2, 1)
    state.now, state.num_executed = 7, 2
    state.executed[:2] = [3, 1]
    decide(Lru(), "touch", state)
    assert state.priority[0].tolist() == [0.0, 7.5, 0.0, 7.0]


def test_belady_bypasses_only_what_is_needed_no_sooner_than_the_victim():
    state = plain_state(1, 3, 1, 1)
    state.next_use[0] = [10, 20, NEVER]
    assert decide(Belady(), "bypass", state, None, 1, 0, 0)
    assert not decide(Belady(), "bypass", state, None, 0, 0, 1)
    assert decide(Belady(), "bypass", state, None, 2, 0, 1)


def test_score_window_averages_the_last_n_decode_iterations_of_all_experts():
    part, state = ScoreWindow(window=2), routed_state([0.6, 0.3, 0.1], [0], [0])
    memory = np.zeros(part.memory_size(1, 3, 1))
    decide(part, "touch", state, memory)
    assert state.priority[0] == pytest.approx([0.6, 0.3, 0.1])
    state.scores[0] = [0.2, 0.5, 0.3]
    decide(part, "touch", state, memory)
    assert state.priority[0] == pytest.approx([0.4, 0.4, 0.2])
    state.phase = PREFILL
    state.scores[0] = [0.0, 0.0, 1.0]
    decide(part, "touch", state, memory)
    assert state.priority[0] == pytest.approx([0.4, 0.4, 0.2])
    state.phase = DECODE
    decide(part, "touch", state, memory)  # the first iteration has left the window
    assert state.priority[0] == pytest.approx([0.1, 0.25, 0.65])


def test_fifo_ignores_use():
    cache = Cache(Fifo())
    cache.load(0, 4)
    cache.step(0, 2, 1)
    cache.step(0, 4)
    assert cache.experts() == [4, 2, 1]


def test_lfu_counts_since_admission_and_breaks_ties_by_recency():
    cache = Cache(Lfu())
    for experts in ([1], [2], [1], [3], [2]):  # counts 1: 2, 2: 2, 3: 1; last touched 1, 3, 2
        cache.step(0, *experts)
    assert cache.experts() == [3, 1, 2]
    cache.evict(0, 1)
    cache.step(0, 1)  # back with a count of 1, more recent than 3
    assert cache.experts() == [3, 1, 2]
    cache.step(0, 3)
    assert cache.experts() == [1, 2, 3]


def test_lfu_starts_a_prefetched_expert_at_zero():
    cache = Cache(Lfu())
    cache.step(0, 1)
    cache.load(0, 2)
    assert cache.experts() == [2, 1]
    cache.step(0, 2)
    assert cache.experts() == [1, 2]


def test_lfu_lifetime_remembers_counts_across_evictions():
    cache = Cache(LfuLifetime())
    for experts in ([1], [1], [2], [3], [2]):  # counts 1: 2, 2: 2, 3: 1
        cache.step(0, *experts)
    cache.evict(0, 1)
    cache.step(0, 1)  # 3 uses
    assert cache.experts() == [3, 2, 1]


def test_lfu_lifetime_orders_one_step_by_last_touch():
    cache = Cache(LfuLifetime())
    cache.step(0, 3, 1, 2)
    assert cache.experts() == [3, 1, 2]


@settings(deadline=None)
@given(st.integers(1, 2**20), st.integers(1, 2**20), st.integers(1, 2**33 - 1), st.integers(1, 2**33 - 1))
def test_recency_breaks_every_tie_and_never_outvotes_a_count(one, other, early, late):
    assert (with_recency(one, early) < with_recency(other, late)) == ((one, early) < (other, late))


def test_aged_lfu_divides_age_by_the_class_of_the_frequency():
    cache = Cache(AgedLfu(half_life_tokens=1.0), ranks=1)
    for expert in (1, 1, 1, 1, 1, 2, 3):  # CRF of 1: 1, 1.5, 1.75, ..., so class 0; 2 and 3: class 0
        cache.step(0, expert)
    assert cache.experts() == [1, 2, 3]  # ages 2, 1, 0
    slow = Cache(AgedLfu(half_life_tokens=1e6), ranks=1)
    for expert in (1, 1, 1, 1, 1, 2, 3):  # CRF of 1: just below 5, class 2: 2 / 4 = 0.5 is below the age 1 of 2
        slow.step(0, expert)
    assert slow.experts() == [2, 1, 3]
    assert slow.state.priority[0, [1, 2, 3]] == pytest.approx([-0.5, -1.0, 0.0])


def test_aged_lfu_measures_age_in_forward_passes():
    cache = Cache(AgedLfu(), layers=2)
    cache.step(0, 1)
    cache.step(1, 2)
    cache.step(0, 3)
    cache.order()
    assert cache.state.priority[0, 1] == -1.0
    assert cache.state.priority[1, 2] == -0.5


def test_least_stale_takes_untouched_experts_first_each_group_in_order():
    cache = Cache(LeastStale(), layers=2)
    cache.step(0, 1, 2)
    cache.step(1, 3)
    cache.state.step = 1
    cache.step(0, 2)
    assert cache.order() == [(0, 1), (1, 3), (0, 2)]
    cache.load(1, 4)  # a prefetch counts as a touch
    assert cache.order() == [(0, 1), (1, 3), (0, 2), (1, 4)]


@pytest.mark.filterwarnings("ignore:overflow encountered")  # a hash wraps around on purpose
def test_random_draws_anew_in_every_step_for_residents_of_every_layer():
    cache = Cache(Random(), layers=2)
    cache.load(0, 0, 1, 2)
    cache.load(1, 0, 1, 2)
    seen = set()
    for _ in range(40):
        cache.step(0, 0)
        first = cache.order()
        assert cache.order() == first
        seen.add(first[0])
    assert len(seen) == 6


# What the released class does, worked out from its rules: a queue in order of loading; use moves nothing; the loaded
# expert goes to the end. Each row: experts loaded or used (missing ones are loaded), evicted before -> the queue.
SMOE_WITHOUT_WINDOW = [
    ([2, 0], [], [2, 0]),
    ([0], [], [2, 0]),
    ([2, 4], [], [2, 0, 4]),
    ([1], [2], [0, 4, 1]),
    ([2], [0], [4, 1, 2]),
    ([4, 5], [1], [4, 2, 5]),
]


def test_smoe_code_without_a_window_is_a_queue_of_loads():
    cache = Cache(SmoeCode())
    for executed, evicted, queue in SMOE_WITHOUT_WINDOW:
        for expert in evicted:
            cache.evict(0, expert)
        cache.step(0, *executed)
        assert cache.experts() == queue


def test_smoe_code_starts_from_the_content_that_it_was_filled_with():
    cache = Cache(SmoeCode(), layers=2)
    cache.load(0, 0, 1)
    cache.load(1, 0, 1)
    cache.evict(0, 0)
    cache.step(1, 3)
    cache.step(0, 0)
    assert cache.order() == [(0, 1), (1, 0), (1, 1), (1, 3), (0, 0)]


# window = 2, three experts loaded in the order 0, 1, 2: n = 3, key = mean * 4 + position
SMOE_WITH_WINDOW = [
    ([0.2, 0.3, 0.5], [0.8, 2.2, 4.0], [0, 1, 2]),  # means are these scores
    ([0.8, 0.1, 0.1], [2.0, 1.8, 3.2], [1, 0, 2]),  # means .5 .2 .3
    ([0.9, 0.0, 0.1], [3.4, 1.2, 2.4], [1, 2, 0]),  # means .85 .05 .1: the first token has left the window
]


def test_smoe_code_with_a_window_adds_the_position_to_the_scaled_mean_score():
    cache = Cache(SmoeCode(window=2), experts=3)
    cache.load(0, 0, 1, 2)
    for scores, keys, queue in SMOE_WITH_WINDOW:
        cache.step(0, 0, scores=[scores])
        assert cache.experts() == queue
        assert cache.state.priority[0] == pytest.approx(keys, abs=1e-6)


def test_smoe_code_counts_every_token_of_a_prompt_and_keeps_the_last_ones():
    cache = Cache(SmoeCode(window=2), experts=3)
    cache.load(0, 0, 1, 2)
    cache.step(0, 0, scores=[row for row, _, _ in SMOE_WITH_WINDOW], tokens=3)
    assert cache.experts() == SMOE_WITH_WINDOW[2][2]
    assert cache.state.priority[0] == pytest.approx(SMOE_WITH_WINDOW[2][1], abs=1e-6)


def test_smoe_code_with_a_window_lets_the_position_outvote_small_differences():
    """Ten residents: a score of 1/10 more is worth 1.1 places, so the expert loaded first still goes first."""
    cache = Cache(SmoeCode(window=4), experts=10)
    cache.load(0, *range(10))
    cache.step(0, 0, scores=[[0.15] + [0.85 / 9] * 9])
    assert cache.experts()[0] == 0
    cache.step(0, 0, scores=[[0.35] + [0.65 / 9] * 9])  # mean .25 against .083: 1.8 places
    assert cache.experts()[:2] == [1, 0]


def test_smoe_code_needs_scores_only_with_a_window():
    assert SmoeCode().all_needs() == frozenset()
    assert SmoeCode(window=4).all_needs() == {"gate_scores"}


def test_mrs_blends_the_top_p_scores_into_the_running_score():
    cache = Cache(Mrs(alpha=0.5, kept=2), experts=4)
    cache.step(0, 0, 1, scores=[[0.4, 0.3, 0.2, 0.1]])
    assert cache.state.priority[0] == pytest.approx([0.2, 0.15, 0.0, 0.0])
    cache.step(0, 2, 3, scores=[[0.1, 0.1, 0.5, 0.3]])
    assert cache.state.priority[0] == pytest.approx([0.1, 0.075, 0.25, 0.15])


def test_mrs_keeps_twice_the_experts_per_token_by_default_and_averages_tokens():
    cache = Cache(Mrs(), experts=4, ranks=1)
    cache.step(0, 0, scores=[[0.6, 0.2, 0.2, 0.0], [0.0, 0.4, 0.2, 0.4]], tokens=2)  # means .3 .3 .2 .2
    assert cache.state.priority[0] == pytest.approx([0.15, 0.15, 0.0, 0.0])


def test_activation_prior_shares_of_the_sequence_times_the_layer_prior():
    cache = Cache(ActivationPrior(epsilon=0.1), layers=2, experts=2)
    cache.step(0, 0, tokens=3)
    cache.step(1, 1)
    cache.step(1, 0)
    assert cache.state.priority[0] == pytest.approx([3.1 / 3, 0.1 / 3])
    assert cache.state.priority[1] == pytest.approx([1.1 / 2 * 0.5, 1.1 / 2 * 0.5])
    cache.state.group = 1  # a new sequence: everything before is forgotten
    cache.step(0, 1)
    assert cache.state.priority[0] == pytest.approx([0.1, 1.1])
    assert cache.state.priority[1] == pytest.approx([0.05, 0.05])


def test_in_cache_visits_keep_their_count_and_break_ties_by_number():
    cache = Cache(InCacheVisits(), layers=2)
    cache.step(0, 3)
    cache.step(0, 2)
    cache.step(1, 1, 5)
    cache.evict(1, 5)
    cache.step(1, 5)
    # of equal counts the lowest expert goes, of one expert the lowest layer: the loop of the code
    assert cache.order() == [(1, 1), (0, 2), (0, 3), (1, 5)]


def test_probability_visits_multiplies_and_truncates_on_request():
    for truncate, expected in ((False, [0.5 * 2, 0.3 * 3, 0.2 * 1]), (True, [1.0, 0.0, 0.0])):
        cache = Cache(ProbabilityVisits(truncate), experts=3)
        cache.step(0, 0, 1, scores=[[0.4, 0.4, 0.2]])
        cache.step(0, 1, 2, scores=[[0.4, 0.4, 0.2]])
        cache.step(0, 0, 1, scores=[[0.5, 0.3, 0.2]])
        assert cache.state.priority[0] == pytest.approx(expected)


def test_nearness_falls_from_the_current_layer_round_to_the_one_just_left():
    assert [nearness(layer, 1, 4) for layer in (1, 2, 3, 0)] == [1.0, 0.75, 0.5, 0.25]


def test_weighted_mix_sums_its_four_scores():
    cache = Cache(WeightedMix(1.0, 10.0, 100.0, 1000.0), layers=2, experts=3)
    cache.state.degraded[1] = 1
    cache.step(0, 0, 1)
    cache.state.degraded[1] = 0
    cache.step(0, 0)
    cache.step(1, 2)
    cache.order()
    # layer 0 had 2 steps: expert 0 last used in step 2, twice, both in full; expert 1 in step 1, once, degraded
    assert cache.state.priority[0, :2] == pytest.approx([(2 + 20 + 200) / 2 + 500, (1 + 10 + 0) / 2 + 500])
    assert cache.state.priority[1, 2] == pytest.approx(1 + 10 + 100 + 1000)
    cache.state.group = 1
    cache.step(0, 1)
    cache.order()
    assert cache.state.priority[0, :2] == pytest.approx([1000, 1 + 10 + 100 + 1000])


def test_edgemoe_multiplies_frequency_and_nearness():
    cache = Cache(EdgeMoe(), layers=2)
    for layer, expert in ((0, 1), (0, 1), (0, 1), (0, 2), (1, 3)):
        cache.step(layer, expert)
    assert cache.order() == [(0, 2), (1, 3), (0, 1)]  # 1 * 1/2, 1 * 1, 3 * 1/2
    assert cache.state.priority[0, 1] == 1.5


def test_frozen_popularity_counts_other_requests_and_admits_nothing():
    ids = np.array([[[0, 2]], [[2, 1]], [[2, 0]]])  # one layer, three tokens
    part = FrozenPopularity()
    memory = part.fit(routed(ids, 4, [1], [3]))
    assert memory.tolist() == [2.0, 1.0, 3.0, 0.0]
    assert part.initial(1, 4, memory).tolist() == [[2.0, 1.0, 3.0, 0.0]]
    cache = Cache(part, experts=4)
    cache.memory = memory
    cache.load(0, 0, 2)
    assert cache.experts() == [0, 2]
    assert cache.call("bypass", 1, 0, 0)


def test_frozen_popularity_keeps_layers_apart():
    ids = np.array([[[0], [2]], [[0], [1]]])  # two layers, one expert per token
    assert FrozenPopularity().fit(routed(ids, 3, [1], [2])).tolist() == [2.0, 0.0, 0.0, 0.0, 1.0, 1.0]


def test_latency_oracle_divides_the_cost_of_the_miss_by_its_distance():
    cache = Cache(LatencyOracle(), layers=2, experts=3)
    cache.state.now, cache.state.load_ns[:] = 10, [1000, 4000]
    cache.state.next_use[0], cache.state.next_use[1] = [15, 20, NEVER], [30, 60, NEVER]
    cache.state.status[:] = RESIDENT
    assert cache.order() == [(0, 2), (1, 2), (1, 1), (0, 1), (0, 0), (1, 0)]
    # worth: layer 0: 1000/5 = 200, 1000/10 = 100, 0; layer 1: 4000/20 = 200, 4000/50 = 80, 0
    assert cache.state.priority.tolist() == [[200.0, 100.0, 0.0], [200.0, 80.0, 0.0]]
    cache.state.layer = 0
    assert cache.call("bypass", 1, 1, 0)  # 100 against 200: stream
    assert not cache.call("bypass", 0, 0, 1)  # 200 against 100: admit
    assert cache.call("bypass", 2, 0, 2)  # neither is ever demanded again


@pytest.mark.parametrize(
    "make",
    [
        lambda: AgedLfu(half_life_tokens=0.0),
        lambda: SmoeCode(window=0),
        lambda: ScoreWindow(window=0),
        lambda: Mrs(alpha=1.5),
        lambda: Mrs(kept=0),
        lambda: ActivationPrior(epsilon=-1.0),
        lambda: WeightedMix(layer=-0.5),
    ],
)
def test_knobs_out_of_range_are_refused_in_one_sentence(make):
    with pytest.raises(UserError, match=r"policy\.eviction\.\w+=.*: must be between"):
        make()


def test_expected_reuse_adds_the_share_of_tokens_to_the_mean_score_and_fades():
    state = routed_state([[0.5, 0.3, 0.2, 0.0], [0.1, 0.5, 0.2, 0.2]], [[0, 1], [1, 2]], [])
    memory = np.zeros(4)
    decide(ExpectedReuse(rate=0.5, routed=1.0), "touch", state, memory)
    # uses .5, 1, .5, 0 and mean scores .3, .4, .2, .1
    assert state.priority[0] == pytest.approx([0.4, 0.7, 0.35, 0.05])
    decide(ExpectedReuse(rate=0.5, routed=0.0), "touch", state, memory)
    assert state.priority[0] == pytest.approx([0.35, 0.55, 0.275, 0.075])
