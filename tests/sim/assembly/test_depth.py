"""Recorded layers repeated to a model's depth: what repeats, what is refused, what every output says."""

from dataclasses import replace

import numpy as np
import pytest

import sim
from sim.assembly.build import build
from sim.assembly.compose import compose_run
from sim.results.json_files import read_json
from sim.run.execute import run_device
from tests.support.random_traces import random_trace
from traces.errors import UserError
from traces.format import mapped
from traces.format.layers import repeat_layers
from traces.format.tensors import trace_tensors
from traces.format.trace import ScoreTable

SAID = "for all 15 layers (ESTIMATED: 6 recorded, repeated 2.5 times)"
FEW = ("trace.requests=3", "model=deepseek_moe_16b", "policy=lru")


def test_layers_repeat_in_turn():
    trace = replace(random_trace(1, num_layers=3, expert_bytes=[10, 20, 30]), content_hash="file/requests[0:2]")
    ids = trace.topk_ids
    trace = replace(trace, selection_scores=ScoreTable(ids.astype(np.float32), ids, np.ones(ids.shape[:2], np.float32)))
    deep = repeat_layers(trace, 7)
    for layer in range(7):
        for name in ("topk_ids", "topk_weights"):
            assert np.array_equal(getattr(deep, name)[:, layer], getattr(trace, name)[:, layer % 3])
        assert np.array_equal(deep.router_logits.values[:, layer], trace.router_logits.values[:, layer % 3])
        assert np.array_equal(deep.selection_scores.ids[:, layer], trace.selection_scores.ids[:, layer % 3])
    assert deep.selection_scores.log_normalizer.shape == (trace.num_tokens, 7)
    assert deep.geometry.expert_bytes == (10, 20, 30, 10, 20, 30, 10)
    assert (deep.lookahead_before, deep.lookahead_after, deep.expert_similarity) == (None, None, None)
    assert (deep.num_layers, deep.recorded_layers) == (7, 3)
    assert deep.content_hash == "file/layers[7 of 3]/requests[0:2]"


def test_large_tables_go_to_a_file_that_holds_the_same(monkeypatch):
    trace = random_trace(2, num_layers=3)
    held = repeat_layers(trace, 8)
    monkeypatch.setattr(mapped, "HELD_BYTES", 0)
    monkeypatch.setattr(mapped, "PIECE_BYTES", 100)
    filed = repeat_layers(trace, 8)
    assert mapped._watch(filed.topk_ids) is not None and mapped._watch(held.topk_ids) is None
    for name, array in trace_tensors(held).items():
        assert np.array_equal(array, trace_tensors(filed)[name]), name


def replayed(*words):
    return build(compose_run(*FEW, *words))


def test_both_engines_give_the_same_of_a_repeated_trace(tmp_path):
    words = ("layers=cycle", "model.num_layers=15", "policy/substitution=score_band", "policy/assignment=two_pointer")
    found = {}
    for engine in ("simpy", "compiled"):
        run_device(compose_run(*FEW, *words, f"engine={engine}"), tmp_path / engine)
        found[engine] = (tmp_path / engine / "metrics.json").read_bytes()
    assert found["simpy"] == found["compiled"]


def test_twice_the_layers_count_twice(tmp_path):
    plain = run_device(compose_run(*FEW, "engine=untimed"), tmp_path / "plain").metrics
    twice = run_device(compose_run(*FEW, "engine=untimed", "layers=cycle", "model.num_layers=12"), tmp_path / "twice")
    for name in ("hit_rate", "decode.hit_rate", "prefill.hit_rate"):
        assert twice.metrics[name] == plain[name] > 0
    assert twice.metrics["loads_per_token"] == 2 * plain["loads_per_token"]
    assert twice.metrics["decode.bytes_per_token"] == 2 * plain["decode.bytes_per_token"]


def test_every_output_says_that_layers_repeat(tmp_path, capsys):
    from sim.commands.compare import main as compare
    from sim.figures.registry import figures_of

    words = ("model.num_layers=15", "engine=compiled", "layers=cycle")
    done = sim.replay("demo", "lru", model="deepseek_moe_16b", trace__requests=3, layers="cycle", out=tmp_path / "a",
                      model__num_layers=15)  # fmt: skip
    assert SAID in str(done) and SAID in repr(done)
    assert "ESTIMATED: layers repeated 2.5 times: the 6 recorded MoE layers stand for all 15 of the model" in str(done)
    assert done.provenance["recorded_layers"] == 6 and done.provenance["layers"] == 15
    run_device(compose_run(*FEW, *words, "policy/eviction=fifo", "policy.name=fifo"), tmp_path / "b")
    run_device(compose_run(*FEW, *words, "cache.fraction=0.5"), tmp_path / "c")
    compare([str(tmp_path)])
    assert SAID in capsys.readouterr().out
    ((_, figure),) = figures_of(tmp_path, ["capacity"], 1)
    assert any(SAID in panel.get_ylabel().replace("\n", " ") for panel in figure.axes)


@pytest.mark.parametrize("words", [(), ("layers=cycle", "model.num_layers=6")])
def test_where_nothing_repeats_a_run_is_as_ever(words):
    replay = replayed(*words)
    assert replay.trace.recorded_layers is None and replay.trace.num_layers == 6
    assert not any("repeated" in note for note in replay.notes.estimated)


def test_requests_to_learn_from_repeat_too():
    replay = replayed(
        "policy=moe_infinity_paper",
        "policy/prediction=none",
        "policy/prefetch=none",
        "layers=cycle",
        "policy/allocation=miss_curve",
        "trace.fit_requests=2",
        "model.num_layers=9",
        "cache.scope=layer",
    )
    assert replay.others is not None and replay.others.num_layers == 9
    assert replay.others.recorded_layers == 6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["policy=importance"],
            "policy importance: Lookahead reads recorded gates of the next layer, and no",
        ),
        (["policy=promoe"], "policy promoe: PromoeMlp is a network trained on the layers that were recorded"),
        (["policy/substitution=similarity"], "policy lru: Similarity reads measured similarities"),
        (["model=trace"], "how many MoE layers demo has is not known: choose its sizes by model=NAME"),
        (["model.num_layers=5"], "the trace has 6 MoE layers, more than the 5 of deepseek_moe_16b"),
        (["layers=twice"], "layers=twice: must be recorded or cycle"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words, sentence):
    with pytest.raises(UserError) as error:
        replayed("layers=cycle", *words)
    assert sentence in str(error.value)


def test_a_system_refuses_it(tmp_path):
    from sim.run.execute import execute

    with pytest.raises(UserError, match="layers=cycle: only for system=device"):
        execute(compose_run("system=od_moe", "layers=cycle"), tmp_path)


def test_the_default_writes_no_new_key(tmp_path):
    run_device(compose_run(*FEW, "engine=compiled"), tmp_path)
    assert "recorded_layers" not in read_json(tmp_path / "provenance.json")
