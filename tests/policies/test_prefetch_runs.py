"""Every prefetch rule runs compiled on every kind of prediction, and fetches early what it says."""

from dataclasses import replace

import pytest

from policies.prediction.oracle import Oracle
from policies.prefetch.layers_ahead import LayersAhead
from policies.prefetch.top_n import TopN
from policies.prefetch.top_score import TopScore
from sim.assembly.catalogue import load_part, rule_names
from sim.engine.decision.counters import N_PREFETCH_COPIES
from tests.policies.driving import drive, replay_with, step_rows
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, machine, replay_of, run

ONE, OTHERS = (random_trace(seed, num_layers=4, prompts=(3, 2, 3), decodes=(4, 5, 3)) for seed in (1, 3))
PREDICTIONS = ["lookahead", "oracle", "previous_token", "activation_matrix_code", "expert_map"]
NAMES = [name for name in rule_names("prefetch") if not load_part("prefetch", name).promotes]
"""Those of background admission ask no prediction: tests/sim/engine/test_background_admission.py."""
NOTHING_EARLY = {"none", "budgeted"}  # without a clock no time is left for a budget


@pytest.mark.parametrize(
    "prediction", ["lookahead", "oracle", "previous_token", "activation_matrix_code", "expert_map"]
)
@pytest.mark.parametrize("name", NAMES)
def test_every_prefetch_runs_on_every_kind_of_prediction(name, prediction):
    policy = replace(BARE, prediction=load_part("prediction", prediction), prefetch=load_part("prefetch", name))
    replay = replay_with(ONE, policy, OTHERS, 2)
    assert sum(1 for _ in drive(replay)) == len(step_rows(ONE, 2)) * 4
    copies = replay.device.counts[N_PREFETCH_COPIES]
    assert copies == 0 if name in NOTHING_EARLY else copies > 0 or prediction == "previous_token"


@pytest.mark.parametrize("name", NAMES)
def test_every_prefetch_runs_on_the_clock(name):
    policy = replace(BARE, prediction=Oracle(layers=2), prefetch=load_part("prefetch", name))
    metrics = run(replay_of(ONE, policy))
    assert metrics["tpot_s.mean"] > 0


PREFETCHES = [TopScore(), TopN(8), LayersAhead(), load_part("prefetch", "cumulative_probability")]
ENOUGH = random_trace(5, num_layers=4, prompts=(1, 1), decodes=(9, 8))


@pytest.mark.parametrize("prefetch", PREFETCHES, ids=lambda part: type(part).__name__)
def test_an_oracle_with_room_and_a_free_link_makes_every_layer_after_the_first_hit(prefetch):
    """With a slot for each of the 8 experts only the first use of an expert can miss, and the oracle knows it."""
    room = {"overflow": "hold", "slots_per_layer": 8}
    policy = replace(BARE, prediction=Oracle(), prefetch=prefetch)
    steps = list(drive(replay_with(ENOUGH, policy, None, **room)))
    assert all(step.hits == step.demanded == 2 for step in steps if step.layer > 0)
    without = list(drive(replay_with(ENOUGH, BARE, None, **room)))
    assert {step.layer for step in without if step.hits < step.demanded} == {0, 1, 2, 3}


def test_the_same_on_the_clock_with_an_infinite_link():
    """Only layer 0 misses: once for each of its experts that is ever used."""
    policy = replace(BARE, prediction=Oracle(), prefetch=TopScore())
    metrics = run(replay_of(ENOUGH, policy, machine(link_bytes_per_s=1e18, host_s_per_layer=1e-6), slots_per_layer=8))
    first_uses = len(set(ENOUGH.topk_ids[:, 0].ravel().tolist()))
    demanded = ENOUGH.num_tokens * 4 * 2
    assert metrics["hit_rate"] == pytest.approx(1 - first_uses / demanded)
