"""`python -m sim train-predictor`: learns what can be learned, same seed same bytes, all or nothing."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from policies.base import Prefetch
from policies.prediction.moe_beyond import MoeBeyond
from policies.prediction.promoe_mlp import PromoeMlp
from policies.state import plain_state
from sim.commands import train_predictor
from sim.predictors.checkpoint import read_checkpoint
from tests.support.random_traces import routed
from tests.support.replays import BARE, replay_of, run
from tests.support.small_predictors import KINDS, request_trace, untrained
from traces.errors import UserError
from traces.format.files import read_trace, write_trace

TINY = ["predictor.width=16", "predictor.heads=2", "predictor.token_width=16", "predictor.feed_forward=32"]
QUICK = [*TINY, "train.learning_rate=0.02", "train.max_epochs=25", "predictor.dropout=0"]


def learnable(requests=8, tokens=24):
    """Layer m of token i uses experts (i + m) % 8 and (i + m + 1) % 8: told by the id, by the experts, by the layer."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 8, requests * tokens)
    both = ids[:, None, None] + np.arange(3)[None, :, None] + np.arange(2)[None, None, :]
    logits = np.full((ids.size, 3, 8), -3.0, np.float32)
    np.put_along_axis(logits, both % 8, np.float32(2.0), axis=-1)
    trace = routed(both % 8, 8, [4] * requests, [tokens] * requests, logits)
    return replace(trace, token_ids=ids.astype(np.int32))


@pytest.fixture(scope="module")
def trace_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("learnable") / "t.safetensors"
    write_trace(path, learnable())
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(trace_path, out, *overrides):
    assert train_predictor.main([f"trace.path={trace_path}", f"out={out}", *overrides]) == 0
    return read_checkpoint(Path(out))


def test_what_the_token_tells_is_learned(trace_path, folder, capsys):
    checkpoint = train(trace_path, "p.safetensors", *QUICK)
    metrics = checkpoint.training["metrics"]
    assert metrics["trained"]["all"]["recall_at_k"] > 0.95
    assert metrics["popularity"]["all"]["recall_at_k"] < 0.5
    assert checkpoint.training["test"] == [0, 1, 2, 3]
    assert sorted(checkpoint.training["train"] + checkpoint.training["validation"]) == [4, 5, 6, 7]
    assert checkpoint.training["trace_hash"] == read_trace(trace_path).content_hash
    printed = capsys.readouterr().out
    assert "trace.fit_requests=4" in printed and "previous token" in printed and "reads token ids" in printed


def test_what_the_layer_before_tells_is_learned(trace_path, folder):
    checkpoint = train(
        trace_path, "p.safetensors", "predictor=promoe_mlp", "predictor.stride=2", "train.learning_rate=0.02"
    )
    metrics = checkpoint.training["metrics"]
    assert metrics["trained, 1 ahead"]["all"]["recall_at_k"] > 0.95
    assert metrics["trained, 2 ahead"]["all"]["recall_at_k"] > 0.95
    assert checkpoint.inputs.signal == "gate_scores"


def test_random_tokens_cannot_be_told_from_the_experts_before(trace_path, folder):
    """The next token is drawn at random, so whoever knows only the token before may not do better than chance."""
    checkpoint = train(trace_path, "p.safetensors", *QUICK, "predictor.inputs=experts")
    assert checkpoint.training["metrics"]["trained"]["decode"]["recall_at_k"] < 0.5


def test_same_seed_same_bytes(trace_path, folder):
    short = [*TINY, "train.max_epochs=2"]
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(trace_path, out, *short, f"train.seed={seed}")
    first, second, other = (Path(name).read_bytes() for name in "abc")
    assert first == second != other


def test_the_best_epoch_is_kept_and_patience_ends_training(trace_path, folder):
    wild = [*TINY, "train.learning_rate=0.5", "train.patience=2", "train.max_epochs=40"]
    training = train(trace_path, "p.safetensors", *wild).training
    losses = training["validation_loss"]
    best = int(np.argmin(losses))
    assert training["best_epoch"] == best + 1
    assert len(losses) == 40 or len(losses) == best + 1 + 2


def test_an_interrupted_training_leaves_nothing(trace_path, folder, monkeypatch):
    from sim.predictors import training

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "mean_loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_predictor.main([f"trace.path={trace_path}", "out=p.safetensors", *TINY])
    assert not list(folder.rglob("*.safetensors")) and not list(folder.rglob("*.part"))
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["predictor.kind=oracle"], "predictor.kind=oracle: must be moe_beyond or promoe_mlp"),
        (["predictor.width=10"], "predictor.width=10: must be a multiple of predictor.heads=4"),
        (["predictor.inputs=text"], "predictor.inputs=text: must be one of auto, tokens, experts, both"),
        (["predictor.causal=false", "predictor.inputs=experts"], "a later token shows the very experts to predict"),
        (["predictor=promoe_mlp", "predictor.stride=4"], "predictor.stride=4: must be between 1 and 3"),
        (["train.seed=-1"], "train.seed=-1"),
        (["trace.fit_requests=8"], "trace.fit_requests=8"),
        (["trace.path=absent.safetensors"], "absent.safetensors does not exist"),
    ],
)
def test_bad_input_is_one_sentence(trace_path, folder, overrides, sentence):
    path = [] if overrides[0].startswith("trace.path") else [f"trace.path={trace_path}"]
    with pytest.raises(UserError, match=sentence):
        train_predictor.main([*path, "out=p.safetensors", *overrides])
    assert not Path("p.safetensors").exists()


def test_a_damaged_or_foreign_file_is_refused(trace_path, folder):
    trace = request_trace()
    path = untrained(trace, KINDS["promoe"], folder / "p.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"p\.safetensors is no safetensors file: The file is truncated"):
        read_checkpoint(path)
    path.write_bytes(whole.replace(b'\\"hidden\\": 8', b'\\"hidden\\": 9'))
    with pytest.raises(UserError, match="weights do not fit its settings"):
        from sim.predictors.forecast import forecaster_of

        forecaster_of(read_checkpoint(path), trace, 1)
    with pytest.raises(UserError, match="is not a predictor"):
        read_checkpoint(trace_path)


def test_a_checkpoint_survives_the_disk(folder):
    path = untrained(request_trace(), KINDS["both"], folder / "p.safetensors")
    first = read_checkpoint(path)
    assert first.settings == KINDS["both"] and first.inputs.tokens and first.inputs.experts
    assert json.dumps(first.training)
    again = untrained(request_trace(), KINDS["both"], folder / "q.safetensors")
    assert path.read_bytes() == again.read_bytes()


def test_help_needs_no_torch(capsys):
    code = (
        "import sys; from sim.__main__ import main; main(['train-predictor', '--help']);"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True)
    for word in ("examples:", "predictor=", "trace.fit_requests=", "train.seed=", "out=", "trace.as_decode="):
        assert word in done.stdout


@dataclass(frozen=True)
class BestTwo(Prefetch):
    """Fetch the two experts of the next layer with the highest predicted score, for tests."""

    def choose(self, state, memory):
        if state.num_predicted == 0:
            return
        first, second = 0, -1
        for expert in range(1, state.num_experts):
            if state.predicted[0, 0, expert] > state.predicted[0, 0, first]:
                first, second = expert, first
            elif second < 0 or state.predicted[0, 0, expert] > state.predicted[0, 0, second]:
                second = expert
        state.prefetch_layer[0], state.prefetch_expert[0] = state.layer + 1, first
        state.prefetch_layer[1], state.prefetch_expert[1] = state.layer + 1, second
        state.num_prefetch = 2


@pytest.mark.parametrize(
    ("part", "overrides"),
    [(MoeBeyond, QUICK), (PromoeMlp, ["predictor=promoe_mlp", "train.learning_rate=0.02"])],
)
def test_a_trained_predictor_hits_where_lru_misses(trace_path, folder, part, overrides):
    """Whatever is fetched early is then demanded. Layer 0 has no layer before it, and in the two others the copy of one
    predicted expert may evict the other, which was there: so not every demand hits."""
    train(trace_path, "p.safetensors", *overrides)
    replayed = read_trace(trace_path).select_requests(4)
    policy = replace(BARE, name="learned", prediction=part("p.safetensors"), prefetch=BestTwo())
    learned = run(replay_of(replayed, policy, slots_per_layer=2, overflow="hold"))
    lru = run(replay_of(replayed, "lru", slots_per_layer=2, overflow="hold"))
    assert learned["decode.prefetch_precision"] == 1.0
    assert learned["decode.hit_rate"] > lru["decode.hit_rate"] + 0.3
    with pytest.raises(UserError, match=r"hold them out with trace\.fit_requests=4"):
        replay_of(read_trace(trace_path), policy, slots_per_layer=2)


@pytest.mark.parametrize("part", [MoeBeyond, PromoeMlp])
def test_a_rule_copies_what_the_network_says_as_far_as_it_reaches(part):
    state = plain_state(3, 2, 1, 2)
    state.num_tokens, state.num_lookahead = 2, 1
    state.lookahead[:2, :2] = [[[0.25, 0.5], [1, 0]], [[9, 9], [9, 9]]]
    rule = part(layers=2)
    rule.predict(state, np.zeros(0))
    assert state.num_predicted == 1 and rule.depth(3) == 2
    assert state.predicted[0, :2].tolist() == [[0.25, 0.5], [1, 0]] and not state.predicted[1].any()
