"""What each prefetch rule fetches, worked out by hand in plain Python."""

import numpy as np
import pytest

from policies.prefetch.budgeted import Budgeted
from policies.prefetch.by_weight_all_layers import ByWeightAllLayers
from policies.prefetch.chunked import Chunked
from policies.prefetch.cumulative_probability import CumulativeProbability
from policies.prefetch.idle_pieces import IdlePieces
from policies.prefetch.layers_ahead import LayersAhead
from policies.prefetch.none import NoPrefetch
from policies.prefetch.promote_frequent import PromoteFrequent
from policies.prefetch.promote_missed import PromoteMissed
from policies.prefetch.smoe_code import SmoeCode
from policies.prefetch.top_n import TopN
from policies.prefetch.top_score import TopScore
from policies.state import CPU, IN_FLIGHT, LINK, LOW, RESIDENT
from sim.assembly.catalogue import load_part, rule_names
from tests.policies.hand import choose, decode_state
from traces.errors import UserError

NEXT = [0.1, 0.4, 0.3, 0.2]
AFTER = [0.2, 0.1, 0.1, 0.6]


def state_of(layers=4, experts=4, ranks=2, tokens=3):
    return decode_state(layers, experts, ranks, tokens)


@pytest.mark.parametrize("name", [one for one in rule_names("prefetch") if not load_part("prefetch", one).promotes])
def test_nothing_predicted_is_nothing_fetched(name):
    state = state_of()
    state.num_missing, state.window_ns = 1, 10**9
    assert choose(load_part("prefetch", name), state) == []


def missed(*tokens, side=CPU):
    """A decode step whose missing experts 0, 1, ... serve so many tokens each."""
    state = state_of(experts=8)
    state.num_missing = len(tokens)
    state.missing[: len(tokens)] = range(len(tokens))
    state.missing_tokens[: len(tokens)], state.side[: len(tokens)] = tokens, side
    return state


def test_promote_missed_takes_what_serves_most_tokens_first():
    assert choose(PromoteMissed(2), missed(1, 3, 3, 2)) == [(0, 1), (0, 2)]
    assert choose(PromoteMissed(9), missed(1, 3, 3, 2)) == [(0, 1), (0, 2), (0, 3), (0, 0)]
    assert choose(PromoteMissed(2), missed(1, 3, side=LINK)) == []
    state = missed(1, 3)
    state.status[0, 1] = IN_FLIGHT
    assert choose(PromoteMissed(2), state) == [(0, 0)]


def routed(*tokens):
    state = state_of(experts=6, ranks=2, tokens=len(tokens))
    state.ids[:] = tokens
    return state


def test_promote_frequent_counts_the_last_tokens():
    """Uses: 1 three times, 2 twice, 4 once; resident are 4 and, unused, 5."""
    state = routed([1, 2], [1, 4], [2, 1])
    state.status[0, [4, 5]] = RESIDENT
    assert choose(PromoteFrequent(limit=2), state) == [(0, 1), (0, 2)]
    state.status[0, 5] = 0
    assert choose(PromoteFrequent(limit=4), state) == [(0, 1), (0, 2)]
    assert choose(PromoteFrequent(window=1, limit=4), state) == [(0, 1), (0, 2)]  # the last token alone
    state.status[0, 2] = RESIDENT
    assert choose(PromoteFrequent(limit=4), state) == [(0, 1)]


def test_promote_frequent_chooses_every_so_many_tokens():
    part, memory = PromoteFrequent(every=2), np.zeros(PromoteFrequent().memory_size(4, 6, 2))
    found = []
    for _ in range(4):
        state = routed([1, 2])
        part.choose(state, memory)
        found.append(state.num_prefetch)
    assert found == [0, 2, 0, 2]


def test_none_fetches_nothing():
    assert choose(NoPrefetch(), state_of(), NEXT) == []


def test_top_n_sums_over_the_rows_of_the_prediction():
    state = state_of()
    assert choose(TopN(2), state, NEXT) == [(1, 1), (1, 2)]
    assert choose(TopN(3), state, [NEXT, AFTER]) == [(1, 3), (1, 1), (1, 2)]  # sums .3 .5 .4 .8
    state.status[1, 1] = RESIDENT
    assert choose(TopN(1), state, NEXT) == [(1, 1)]  # there already, and counts


def test_top_n_never_fetches_what_has_no_score():
    assert choose(TopN(4), state_of(), [0.0, 1.0, 0.0, 0.5]) == [(1, 1), (1, 3)]


def test_top_score_reads_one_row_that_speaks_for_the_whole_step():
    """k = 2; NEXT: S_3 = .2, edge .27, so 1 and 2; AFTER: S_3 = .1, edge .135, so 3 and 0."""
    state = state_of()
    state.predicted[0, 1] = [9, 0, 0, 0]  # left over from an earlier step
    assert choose(TopScore(), state, NEXT) == [(1, 1), (1, 2)]
    assert choose(TopScore(), state, [NEXT, AFTER]) == [(1, 3), (1, 1), (1, 2), (1, 0)]


def test_top_score_sums_nothing_over_tokens_and_obeys_its_limit():
    state = state_of(experts=8, ranks=3)
    first = [0.1, 0.2, 0.1, 0.4, 0.05, 0.05, 0.05, 0.05]  # top 3: 3, 1, 0; S_4 = 0.1, edge 0.135: 3, 1 are top-score
    second = [0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert choose(TopScore(), state, [first, second]) == [(1, 3), (1, 0), (1, 1)]
    assert choose(TopScore(limit=1), state, [first, second]) == [(1, 3)]


def test_cumulative_probability_fetches_more_the_less_it_trusts():
    part, state = CumulativeProbability, state_of()
    assert choose(part(similarity=1.0), state, NEXT) == [(1, 1), (1, 2)]  # the top k
    assert choose(part(similarity=1.0, at_least=1), state, NEXT) == [(1, 1)]
    assert choose(part(similarity=0.25, at_least=1), state, NEXT) == [(1, 1), (1, 2)]  # .4, .7, then .9 > .75
    assert choose(part(similarity=0.05, at_least=1), state, NEXT) == [(1, 1), (1, 2), (1, 3)]
    assert choose(part(similarity=0.0), state, NEXT) == [(1, 1), (1, 2), (1, 3), (1, 0)]


def test_cumulative_probability_takes_a_rows_sum_for_its_similarity():
    """Scores sum to .25: allowed .75; the probabilities are .4, .3, .2, .1 as before."""
    state = state_of()
    quarter = [0.025, 0.1, 0.075, 0.05]
    assert choose(CumulativeProbability(at_least=1), state, quarter) == [(1, 1), (1, 2)]
    assert choose(CumulativeProbability(at_least=1), state, [4 * score for score in quarter]) == [(1, 1)]


def test_cumulative_probability_orders_layers_by_probability_and_distance():
    """L = 4: a layer further counts 1 - 1/5. .6 * .8 = .48 leads .4, .3, .2 * .8 = .16."""
    state = state_of()
    part = CumulativeProbability(similarity=1.0)
    assert choose(part, state, NEXT, AFTER) == [(2, 3), (1, 1), (1, 2), (2, 0)]
    assert choose(part, state, [0.0] * 4, AFTER) == [(2, 3), (2, 0)]  # a layer without scores is left out
    state.status[2, 3], state.status[1, 1], state.status[1, 2] = RESIDENT, IN_FLIGHT, LOW
    assert choose(part, state, NEXT, AFTER) == [(1, 2), (2, 0)]


def test_cumulative_probability_takes_the_highest_over_tokens():
    part = CumulativeProbability(similarity=1.0, at_least=1)
    assert choose(part, state_of(), [NEXT, AFTER]) == [(1, 3), (1, 1)]


def test_layers_ahead_goes_on_when_the_next_layer_is_complete():
    state = state_of()
    assert choose(LayersAhead(), state, NEXT, AFTER) == [(1, 1), (1, 2)]
    state.status[1, 1] = RESIDENT
    assert choose(LayersAhead(), state, NEXT, AFTER) == [(1, 1), (1, 2)]
    state.status[1, 2] = IN_FLIGHT
    assert choose(LayersAhead(), state, NEXT, AFTER) == [(1, 1), (1, 2), (2, 3), (2, 0)]
    assert choose(LayersAhead(), state, NEXT) == [(1, 1), (1, 2)]
    assert choose(LayersAhead(count=3), state, NEXT, AFTER) == [(1, 1), (1, 2), (1, 3)]


def test_layers_ahead_takes_the_best_of_every_token_by_their_sum():
    """Bests of the tokens: 1, 2 and 3, 0; sums .3 .5 .4 .8."""
    assert choose(LayersAhead(), state_of(), [NEXT, AFTER]) == [(1, 3), (1, 1), (1, 2), (1, 0)]


def test_chunked_fetches_the_layer_at_the_stride_and_at_first_those_before_it():
    part, state = Chunked(stride=2), state_of()
    assert part.chunks() == 3
    assert Chunked(pieces=5).chunks() == 5
    assert choose(part, state, NEXT, AFTER) == [(1, 1), (1, 2), (2, 3), (2, 0)]
    state.layer = 1
    assert choose(part, state, NEXT, AFTER) == [(3, 3), (3, 0)]
    assert choose(part, state, NEXT) == []
    assert choose(Chunked(count=1), state, NEXT, AFTER) == [(2, 1)]


def test_by_weight_all_layers_sorts_across_layers_and_leaves_out_what_is_there():
    """Ties at .2 and .1 go to the nearer layer, then to the lower id."""
    state = state_of()
    whole = [(2, 3), (1, 1), (1, 2), (1, 3), (2, 0), (1, 0), (2, 1), (2, 2)]
    assert choose(ByWeightAllLayers(), state, NEXT, AFTER) == whole
    state.status[2, 3], state.status[1, 2] = RESIDENT, IN_FLIGHT
    assert choose(ByWeightAllLayers(limit=2), state, NEXT, AFTER) == [(1, 1), (1, 3)]
    assert choose(ByWeightAllLayers(), state, [0.0, 0.5, 0.0, 0.0]) == [(1, 1)]


def test_budgeted_fetches_what_fits_into_the_window():
    state = state_of()
    state.load_ns[:] = 100
    for window_ns, expected in ((0, []), (99, []), (100, [(1, 1)]), (250, [(1, 1), (1, 2)])):
        state.window_ns = window_ns
        assert choose(Budgeted(), state, NEXT) == expected
    assert choose(Budgeted(share=0.5), state, NEXT) == [(1, 1)]
    assert choose(Budgeted(count=1), state, NEXT) == [(1, 1)]
    state.window_ns = 100
    state.status[1, 1] = RESIDENT  # costs nothing
    assert choose(Budgeted(), state, NEXT) == [(1, 1), (1, 2)]
    assert choose(Budgeted(count=3), state, NEXT) == [(1, 1), (1, 2)]


def test_idle_pieces_takes_what_carries_its_share_of_the_predicted_weight():
    """Shares of the top 2: 4/7 and 3/7; of a second row that wants 3 alone, 1."""
    state = state_of()
    for least, expected in ((0.0, [1, 2]), (0.42, [1, 2]), (0.43, [1]), (0.6, [])):
        assert choose(IdlePieces(least=least), state, NEXT) == [(1, expert) for expert in expected]
    state.status[1, 1] = RESIDENT  # named too: it shall not be evicted for another
    assert choose(IdlePieces(), state, NEXT) == [(1, 1), (1, 2)]
    assert choose(IdlePieces(least=0.43), state, [NEXT, [0.0, 0.0, 0.0, 1.0]]) == [(1, 3), (1, 1)]
    assert IdlePieces(pieces=5).chunks() == 5


def on_cpu(worth, resident, free_slots=0):
    """Missing experts 0, 1, ... of so much worth on the CPU, and residents 4, 5, ... of theirs."""
    state = missed(*[1] * len(worth))
    state.priority[0, : len(worth)], state.priority[0, 4 : 4 + len(resident)] = worth, resident
    state.status[0, 4 : 4 + len(resident)], state.free_slots = RESIDENT, free_slots
    return state


def test_idle_pieces_promotes_what_is_worth_more_than_what_would_go():
    """The worthiest against the least worthy, the next against the next: 5 > 1 and 3 > 2, but 1.5 < 4."""
    assert choose(IdlePieces(), on_cpu([3, 5, 1.5], [4, 1, 2])) == [(0, 1), (0, 0)]
    assert choose(IdlePieces(), on_cpu([3, 5, 1.5], [4, 1, 2], free_slots=1)) == [(0, 1), (0, 0)], "1.5 < 2"
    assert choose(IdlePieces(), on_cpu([3, 5, 1.5], [], free_slots=2)) == [(0, 1), (0, 0)], "nothing else may go"
    state = on_cpu([3, 5, 1.5], [4, 1, 2])
    state.shield[0, 5] = 1  # the step executes it: 5 > 2, 3 < 4
    assert choose(IdlePieces(), state) == [(0, 1)]
    state = on_cpu([3, 5, 1.5], [4, 1, 2])
    state.side[1] = LINK  # its copy takes the place of 1: 3 > 2
    assert choose(IdlePieces(), state) == [(0, 0)]
    state.status[0, 0] = IN_FLIGHT  # under way already
    assert choose(IdlePieces(), state) == []
    state = on_cpu([3], [1])
    assert choose(IdlePieces(), state, NEXT + [0.0] * 4) == [(1, 1), (1, 2), (0, 0)], "behind what is foreseen"


def test_smoe_code_fetches_one_missing_top_score_expert_after_a_miss():
    """Edge with alpha .25: 1.25 * .2 = .25, so 1 and 2 are top-score."""
    state = state_of()
    assert choose(SmoeCode(), state, NEXT) == []
    state.num_missing = 1
    assert choose(SmoeCode(), state, NEXT) == [(1, 1)]
    state.status[1, 1] = RESIDENT
    assert choose(SmoeCode(), state, NEXT) == [(1, 2)]
    state.status[1, 2] = IN_FLIGHT
    assert choose(SmoeCode(), state, NEXT) == []  # expert 3 is missing and not top-score


def test_what_is_fetched_lies_in_later_layers_and_is_named_once():
    rng = np.random.default_rng(0)
    for name in rule_names("prefetch"):
        if load_part("prefetch", name).promotes:
            continue
        state = state_of(tokens=4)
        state.num_missing, state.window_ns, state.load_ns[:] = 1, 300, 100
        predicted = rng.dirichlet(np.ones(4), size=(3, 4))
        found = choose(load_part("prefetch", name), state, *predicted)
        assert len(set(found)) == len(found), name
        assert all(0 < layer < 4 and 0 <= expert < 4 for layer, expert in found), name
        assert (found == []) == (name == "none"), name


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopN(0),
        lambda: TopScore(alpha=2),
        lambda: CumulativeProbability(similarity=1.5),
        lambda: CumulativeProbability(at_least=-1),
        lambda: LayersAhead(count=-1),
        lambda: Chunked(pieces=0),
        lambda: Chunked(stride=0),
        lambda: ByWeightAllLayers(limit=-1),
        lambda: Budgeted(share=-0.5),
        lambda: SmoeCode(alpha=2.0),
    ],
)
def test_knobs_out_of_range_are_refused(make):
    with pytest.raises(UserError, match=r"policy\.prefetch\.\w+=.*: must be between"):
        make()
