"""Every prefetch rule runs compiled on every kind of prediction, and fetches early what it says."""

from dataclasses import replace

import pytest

from policies.prediction.oracle import Oracle
from policies.prefetch.layers_ahead import LayersAhead
from policies.prefetch.top_n import TopN
from policies.prefetch.top_score import TopScore
from sim.engine.counters import N_PREFETCH_COPIES
from tests.policies.driving import drive, replay_with
from tests.policies.hand import from_yaml, yaml_names
from tests.sim.replays import BARE, machine, replay_of, run
from tests.traces_for_tests import random_trace

ONE, OTHERS = (random_trace(seed, num_layers=4, prompts=(3, 2, 3), decodes=(4, 5, 3)) for seed in (1, 3))
NOTHING_EARLY = {"none", "budgeted"}  # without a clock no time is left for a budget


@pytest.mark.parametrize("prediction", ["lookahead", "oracle", "previous_token", "activation_matrix_code", "expert_map"])
@pytest.mark.parametrize("name", yaml_names("prefetch"))
def test_every_prefetch_runs_on_every_kind_of_prediction(name, prediction):
    policy = replace(BARE, prediction=from_yaml("prediction", prediction), prefetch=from_yaml("prefetch", name))
    replay = replay_with(ONE, policy, OTHERS, 2)
    assert sum(1 for _ in drive(replay)) == len(replay.schedule) * 4
    assert (replay.device.counts[N_PREFETCH_COPIES] > 0) == (name not in NOTHING_EARLY)


@pytest.mark.parametrize("name", yaml_names("prefetch"))
def test_every_prefetch_runs_on_the_clock(name):
    policy = replace(BARE, prediction=Oracle(layers=2), prefetch=from_yaml("prefetch", name))
    metrics = run(replay_of(ONE, policy))
    assert metrics["tpot_s.mean"] > 0


PREFETCHES = [TopScore(), TopN(8), LayersAhead(), from_yaml("prefetch", "cumulative_probability")]


@pytest.mark.parametrize("prefetch", PREFETCHES, ids=lambda part: type(part).__name__)
def test_an_oracle_over_a_free_link_makes_every_layer_after_the_first_hit(prefetch):
    """One row per step demands the top 2, and 2 slots hold them."""
    trace = random_trace(5, num_layers=4, prompts=(1, 1), decodes=(9, 8))
    policy = replace(BARE, prediction=Oracle(), prefetch=prefetch)
    steps = list(drive(replay_with(trace, policy, None, overflow="hold", slots_per_layer=2)))
    assert all(step.hits == step.demanded == 2 for step in steps if step.layer > 0)
    assert sum(step.hits for step in steps if step.layer == 0) < sum(step.demanded for step in steps if step.layer == 0)
    without = drive(replay_with(trace, BARE, None, overflow="hold", slots_per_layer=2))
    assert sum(step.hits for step in without if step.layer > 0) < 3 * 19 * 2  # the oracle did it


def test_the_same_on_the_clock_with_an_infinite_link():
    """Layer 0 is one of 4, and everything else hits."""
    trace = random_trace(5, num_layers=4, prompts=(1, 1), decodes=(9, 8))
    fast = machine(link_bytes_per_s=1e18)
    policy = replace(BARE, prediction=Oracle(), prefetch=TopScore())
    metrics = run(replay_of(trace, policy, fast, slots_per_layer=2))
    alone = run(replay_of(trace, BARE, fast, slots_per_layer=2))
    assert 0.75 <= metrics["hit_rate"] < 1.0
    assert alone["hit_rate"] < 0.75
