"""Predictions know only the past: what comes after a layer step cannot change what was predicted there."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Prediction
from policies.needs import Need
from policies.prediction.activation_matrix import ActivationMatrix
from policies.prediction.expert_map import ExpertMap
from policies.prediction.popularity import Popularity
from policies.prediction.previous_token import PreviousToken
from policies.prediction.shadow import Shadow
from policies.prefetch.by_weight_all_layers import ByWeightAllLayers
from policies.state import State
from sim.assembly.catalogue import load_part, rule_names
from tests.policies.driving import as_plain, drive, replay_with, scrambled_after, step_rows
from tests.policies.hand import predict
from tests.support.random_traces import random_trace
from tests.support.replays import BARE
from tests.support.small_predictors import KINDS, untrained
from traces.errors import UserError

LAYERS = 4
NETWORKS = {"moe_beyond": KINDS["experts"], "promoe_mlp": KINDS["promoe"]}
"""Learned rules and what their (untrained) networks are made of."""
ONE, OTHER, OTHERS = (random_trace(seed, LAYERS, prompts=(3, 2, 3), decodes=(4, 5, 3)) for seed in (1, 2, 3))
FOLDER = Path(mkdtemp(prefix="untrained-"))
LEARNED = {
    name: replace(
        load_part("prediction", name), checkpoint=str(untrained(OTHERS, kind, FOLDER / f"{name}.safetensors"))
    )
    for name, kind in NETWORKS.items()
}
SEERS = {"oracle", "future"}
SILENT = {"none", "drafts"}
"""Without drafts in a step they predict nothing; tests/policies/test_prediction_oracles.py has those."""
PARTS = (
    {name: load_part("prediction", name) for name in rule_names("prediction") if name not in SILENT}
    | LEARNED
    | {
        "previous_token, 3 layers": PreviousToken(layers=3),
        "popularity, fitted": Popularity(layers=3, fitted=True),
        "activation_matrix, online": ActivationMatrix(collection=2, fitted=False),
        "expert_map, online": ExpertMap(capacity=5, distance=1, fitted=False),
        "shadow, prompts too": Shadow(recall=0.5, during_prefill=True),
    }
)
PREDICTIONS = list(PARTS)
CAUSAL = [name for name in PREDICTIONS if not SEERS & PARTS[name].all_needs()]


def predictions(prediction, trace, batch_size):
    policy = replace(BARE, prediction=prediction, prefetch=ByWeightAllLayers(limit=4))
    return list(drive(replay_with(trace, policy, OTHERS, batch_size)))


def assert_blind(prediction, batch_size, step, layer):
    """Raises AssertionError if predictions made up to a cut depend on what comes after it."""
    whole = predictions(prediction, ONE, batch_size)
    cut = predictions(prediction, scrambled_after(ONE, OTHER, batch_size, step, layer), batch_size)
    for one, other in zip(whole, cut, strict=True):
        if (one.step, one.layer) > (step, layer):
            break
        np.testing.assert_array_equal(one.predicted, other.predicted, f"step {one.step}, layer {one.layer}")


def cuts():
    """(batch size, step, layer) of a cut anywhere in the replay."""
    return st.sampled_from([1, 2]).flatmap(
        lambda batch: st.tuples(
            st.just(batch), st.integers(0, len(step_rows(ONE, batch)) - 1), st.integers(0, LAYERS - 1)
        )
    )


@pytest.mark.parametrize("name", CAUSAL)
@settings(max_examples=8, deadline=None)
@given(cut=cuts())
def test_what_comes_later_changes_no_earlier_prediction(name, cut):
    assert_blind(PARTS[name], *cut)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_every_prediction_predicts_something_after_the_first_request(name):
    found = predictions(PARTS[name], ONE, 1)
    assert max(step.predicted.max(initial=0.0) for step in found) > 0.0
    assert all(step.layer + step.predicted.shape[0] < LAYERS for step in found)


@pytest.mark.filterwarnings("ignore:overflow encountered in scalar")  # a hash wraps around
@pytest.mark.parametrize("name", PREDICTIONS)
def test_compiled_rules_predict_what_plain_python_does(name):
    part = PARTS[name]
    replay = replay_with(ONE, replace(BARE, prediction=part), OTHERS, 2)
    memory = replay.device.memories["prediction"].copy()
    for found in drive(replay):
        expected = predict(part, as_plain(replay.device, found.routed), memory)
        np.testing.assert_allclose(found.predicted, np.reshape(expected, found.predicted.shape), rtol=1e-6)


@dataclass(frozen=True)
class Cheat(Prediction):
    """Reads the next layer's routing and does not say so."""

    def predict(self, state: State, memory) -> None:
        if state.layer + 1 < state.num_layers:
            state.num_predicted = 1
            for token in range(state.num_tokens):
                for expert in range(state.num_experts):
                    state.predicted[0, token, expert] = 0.0
                state.predicted[0, token, state.routed[token, state.layer + 1, 0]] = 1.0


def found_out(prediction):
    """Whether some cut shows that a prediction saw what comes after it."""
    for step in range(4):
        try:
            assert_blind(prediction, 1, step, 1)
        except AssertionError:
            return True
    return False


class Honest(Cheat):
    """Says so."""

    needs = frozenset({Need.ORACLE})


def test_a_rule_that_reads_the_next_layer_is_found_out():
    assert found_out(Honest())


def test_without_saying_so_it_cannot_even_read_it():
    with pytest.raises(UserError, match=r"reads state\.routed without stating the need"):
        found_out(Cheat())


@pytest.mark.parametrize("name", sorted(set(PREDICTIONS) - set(CAUSAL)))
def test_oracles_would_be_found_out(name):
    assert found_out(PARTS[name])
