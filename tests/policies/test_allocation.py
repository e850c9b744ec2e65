"""Splits of a capacity over layers: worked out by hand, and against every possible split of small cases."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from policies.allocation.miss_curve import MissCurveSplit, split
from policies.allocation.uniform import Uniform
from tests.support.random_traces import random_trace, routed
from tests.support.replays import replay_of, run
from traces.errors import UserError

EQUAL = np.array([1000, 1000, 1000])
FOLDER = Path(__file__).resolve().parents[2] / "conf" / "policy" / "allocation"


def best_of_all(cost, total):
    """The least cost of any split of ``total`` slots with at least one for each layer."""
    layers, most = cost.shape[0], cost.shape[1] - 1
    splits = (s for s in product(range(1, most + 1), repeat=layers) if sum(s) == total)
    return min(sum(int(cost[layer, k]) for layer, k in enumerate(s)) for s in splits)


def test_uniform_gives_the_first_layers_what_does_not_divide():
    assert Uniform().slots(8, 8, None, EQUAL).tolist() == [3, 3, 2]
    assert Uniform().slots(24, 8, None, EQUAL).tolist() == [8, 8, 8]


def test_the_split_goes_where_a_slot_saves_most():
    cost = np.array([[9, 8, 7, 6], [9, 5, 2, 0], [9, 9, 1, 1]])  # misses at 0..3 slots
    assert split(cost, 6).tolist() == [1, 3, 2]  # 8 + 0 + 1
    assert split(cost, 5).tolist() == [1, 2, 2]  # 8 + 2 + 1
    assert split(cost, 3).tolist() == [1, 1, 1]
    assert split(cost, 9).tolist() == [3, 3, 3]


def test_a_layer_that_repeats_one_expert_gets_one_slot():
    """Layer 0 always uses expert 0, layer 1 alternates between 0, 1 and 2: three slots end its misses."""
    ids = np.array([[[0], [t % 3]] for t in range(30)])
    trace = routed(ids, 4, [0], [30])
    assert MissCurveSplit().slots(4, 4, trace, np.array([1000, 1000])).tolist() == [1, 3]


def test_dear_layers_get_more():
    ids = np.array([[[t % 2], [t % 2]] for t in range(30)])
    trace = routed(ids, 4, [0], [30])
    assert MissCurveSplit().slots(3, 4, trace, np.array([1000, 3000])).tolist() == [1, 2]
    assert MissCurveSplit().slots(3, 4, trace, np.array([3000, 1000])).tolist() == [2, 1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_split_costs_less(data):
    layers, experts = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    total = data.draw(st.integers(layers, layers * experts))
    row = st.lists(st.integers(0, 9), min_size=experts + 1, max_size=experts + 1)
    cost = np.array(data.draw(st.lists(row, min_size=layers, max_size=layers)))
    slots = split(cost, total)
    assert slots.sum() == total
    assert (slots >= 1).all()
    assert (slots <= experts).all()
    assert int(cost[np.arange(layers), slots].sum()) == best_of_all(cost, total)


@pytest.mark.parametrize("decode_only", [True, False])
def test_the_cost_of_a_split_is_what_replays_miss(decode_only):
    """The miss curves behind the split, against one LRU replay for every number of slots."""
    trace = random_trace(3, num_experts=5, decodes=(20, 15))
    misses = np.zeros((3, 6), np.int64)
    for slots in range(1, 6):
        for layer in range(3):
            single = routed(trace.topk_ids[:, layer : layer + 1].astype(np.int64), 5, [4, 3], [24, 18])
            metrics = run(replay_of(single, "lru", slots_per_layer=slots))
            missed = (1 - metrics["decode.hit_rate"]) * 2 * (20 + 15)  # two experts a token
            misses[layer, slots] = round(missed if decode_only else metrics["loads_per_token"] * trace.num_tokens)
    for total in range(3, 16):
        slots = MissCurveSplit(decode_only).slots(total, 5, trace, EQUAL)
        assert int(misses[np.arange(3), slots].sum()) == best_of_all(misses, total)


@pytest.mark.parametrize("rule", [Uniform(), MissCurveSplit()])
@pytest.mark.parametrize("total", [2, 25])
def test_totals_that_fit_no_split_are_refused(rule, total):
    with pytest.raises(UserError, match=f"capacity of {total} slots in all"):
        rule.slots(total, 8, random_trace(1), EQUAL)


def test_miss_curves_need_other_requests():
    assert MissCurveSplit.needs == {"fit"}
    with pytest.raises(UserError, match="learns from requests"):
        MissCurveSplit().slots(6, 8, None, EQUAL)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_makes_a_split(path):
    values = dict(OmegaConf.load(path))
    rule = get_class(values.pop("_target_"))(**values)
    slots = rule.slots(10, 8, random_trace(1), EQUAL)
    assert slots.dtype == np.int64
    assert slots.sum() == 10
