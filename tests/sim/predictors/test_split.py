"""Requests to learn from and requests to replay never meet."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.prediction.moe_beyond import MoeBeyond
from policies.prediction.promoe_mlp import PromoeMlp
from sim.config import TraceConfig
from sim.predictors.forecast import make_forecaster
from sim.predictors.split import fingerprint, mixed, split_requests
from tests.support.small_predictors import KINDS, request_trace, untrained
from traces.errors import UserError
from traces.format.files import read_trace, write_trace


def config(requests=None, fit_requests=None):
    return TraceConfig("demo", requests=requests, fit_requests=fit_requests)


def test_the_last_half_is_learned_from_unless_told_otherwise():
    split = split_requests(9, config(), 0.25, 0)
    assert split.test == (0, 1, 2, 3, 4) and split.learned == (5, 6, 7, 8) and len(split.validation) == 1
    assert split_requests(9, config(requests=3), 0.25, 0).learned == (3, 4, 5, 6, 7, 8)
    split = split_requests(9, config(requests=3, fit_requests=4), 0.25, 0)
    assert split.test == (0, 1, 2) and split.learned == (5, 6, 7, 8)


@given(
    total=st.integers(3, 60),
    held=st.integers(2, 59),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 9),
)
def test_the_three_parts_never_overlap(total, held, share, seed):
    held = min(held, total - 1)
    split = split_requests(total, config(fit_requests=held), share, seed)
    assert sorted(split.train + split.validation + split.test) == list(range(total))
    assert split.train and split.validation and split.test
    assert split == split_requests(total, config(fit_requests=held), share, seed)


@pytest.mark.parametrize(("requests", "held"), [(None, 1), (None, 4), (None, 5), (3, 2), (4, None)])
def test_a_split_with_an_empty_part_is_refused(requests, held):
    with pytest.raises(UserError, match=r"trace\.(fit_requests|requests)="):
        split_requests(4, config(requests, held), 0.2, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor")
    trace = write_trace(folder / "t.safetensors", request_trace(requests=5))
    return trace, str(untrained(trace, KINDS["tokens"], folder / "p.safetensors", fit_requests=2))


def test_a_replay_of_a_request_that_was_learned_from_is_refused(trained):
    trace, path = trained
    assert make_forecaster(MoeBeyond(path), trace.select_requests(3)).read(np.arange(4)).shape == (4, 4, 1, 8)
    for replayed, number in ((trace, 3), (trace.select_requests(4), 3), (trace.select_requests(2, 2), 1)):
        with pytest.raises(UserError, match=rf"first of them number {number}: hold them out with trace.fit_requests=2"):
            make_forecaster(MoeBeyond(path), replayed)


def test_a_copy_in_another_file_or_another_order_is_refused_too(trained, tmp_path):
    trace, path = trained
    other = write_trace(tmp_path / "other.safetensors", mixed(trace, 1))
    assert other.content_hash != trace.content_hash
    with pytest.raises(UserError, match=r"learned from 2 of the 5 requests to replay.*replay other requests"):
        make_forecaster(MoeBeyond(path), other)


def test_a_predictor_of_another_model_kind_or_reach_is_refused(trained, tmp_path):
    trace, path = trained
    replayed = trace.select_requests(2)
    with pytest.raises(UserError, match="checkpoint is not set: train a predictor"):
        make_forecaster(MoeBeyond(""), replayed)
    with pytest.raises(UserError, match="no such file"):
        make_forecaster(MoeBeyond(str(tmp_path / "absent")), replayed)
    with pytest.raises(UserError, match="of kind moe_beyond, and the policy wants one of kind promoe_mlp"):
        make_forecaster(PromoeMlp(path), replayed)
    with pytest.raises(UserError, match=r"causal=false: .* was trained with causal=true"):
        make_forecaster(MoeBeyond(path, causal=False), replayed)
    with pytest.raises(UserError, match=r"it predicts test with 4 layers.* and the trace is of other with 4 layers"):
        make_forecaster(MoeBeyond(path), replace(replayed, geometry=replace(trace.geometry, model="other")))
    with pytest.raises(UserError, match="reads token ids, and the trace holds none"):
        make_forecaster(MoeBeyond(path), replace(replayed, token_ids=None))
    near = untrained(trace, KINDS["promoe"], tmp_path / "near.safetensors")
    with pytest.raises(UserError, match=r"layers=3: .* looks only 2 ahead"):
        make_forecaster(PromoeMlp(str(near), layers=3), replayed)


def test_a_mixed_trace_holds_the_same_requests(tmp_path):
    trace = request_trace(requests=6)
    path = tmp_path / "mixed.safetensors"
    write_trace(path, mixed(trace, 3))
    shuffled = read_trace(path)
    names = [fingerprint(trace, i) for i in range(6)]
    found = [fingerprint(shuffled, i) for i in range(6)]
    assert sorted(names) == sorted(found) and names != found
    place = found.index(names[2])
    rows = [slice(*t.request_offsets[i : i + 2]) for t, i in ((trace, 2), (shuffled, place))]
    assert np.array_equal(trace.token_ids[rows[0]], shuffled.token_ids[rows[1]])
    assert np.array_equal(trace.router_logits.values[rows[0]], shuffled.router_logits.values[rows[1]])
    assert trace.prompt_len[2] == shuffled.prompt_len[place]


def test_only_the_causal_part_is_no_oracle():
    assert MoeBeyond().all_needs() == PromoeMlp().all_needs() == {"forecast"}
    assert MoeBeyond(causal=False).all_needs() == {"forecast", "oracle"}
