"""`info`: tables for people, JSON for programs, refusals in one sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sim.commands.info import main
from tests.support.random_traces import recorded_trace
from traces.embedded import embedded_names
from traces.errors import UserError
from traces.format.files import write_trace


@pytest.fixture
def path(tmp_path):
    write_trace(tmp_path / "t.safetensors", recorded_trace(width=6))
    return tmp_path / "t.safetensors"


def test_tables_hold_every_section(path, capsys):
    assert main([str(path)]) == 0
    text = capsys.readouterr().out
    for part in (
        "Trace t.safetensors",
        "top-2 of 8 per layer",
        "5 prefill, 10 decode, 3 requests",
        "router_logits.values",
        "reuse by the next token",
        "step-LRU capacity",
        "gate slope h",
        "low-score share of active experts",
        "low share of LRU misses at 2 slots",
        "before layer l's MoE: recall of top-k",
        "after layer l's MoE: recall of top-k",
    ):
        assert part in text
    assert " nan" not in text


def test_similarity_of_experts_is_one_line_where_it_was_measured(tmp_path, path, capsys):
    alike = np.full((3, 8, 8), 0.25, np.float16)
    alike[:, np.arange(8), np.arange(8)] = 1.0
    alike[:, 0, 1] = alike[:, 1, 0] = 0.75
    write_trace(tmp_path / "alike", replace(recorded_trace(), expert_similarity=alike))
    assert main([str(path)]) == 0
    assert "Similarity" not in capsys.readouterr().out
    assert main([str(tmp_path / "alike")]) == 0
    # (54 * 0.25 + 2 * 0.75) / 56 and (6 * 0.25 + 2 * 0.75) / 8
    assert "two experts of a layer  0.268  with its most similar partner  0.375" in capsys.readouterr().out


def test_a_trace_of_ids_says_what_is_unknown(tmp_path, capsys):
    trace = replace(recorded_trace(scores=False), topk_weights=None, request_labels=None, token_ids=None)
    write_trace(tmp_path / "t", trace)
    assert main([str(tmp_path / "t")]) == 0
    text = capsys.readouterr().out
    assert "no router_logits: gate slope and score bands are unknown" in text and "Lookahead" not in text


def test_json_holds_the_same_numbers(path, capsys):
    assert main([str(path), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["geometry"]["model"] == "random" and numbers["decode_rows"] == 10
    assert numbers["labels"] == {"a": {"requests": 2, "rows": 10}, "b": {"requests": 1, "rows": 5}}
    assert numbers["gate"]["alphas"] == [0.25, 0.3, 0.35] and 0 < numbers["gate"]["gate_slope"] < 5
    assert set(numbers["lookahead"]) == {"before", "after"}
    assert len(numbers["locality"]["lru_hit_rate"]) == 4


def test_a_changed_content_is_found_by_its_hash(path):
    content = bytearray(path.read_bytes())
    at = content.index(recorded_trace().token_ids.tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="it was changed after it was written"):
        main([str(path)])


def test_a_missing_trace_is_named():
    with pytest.raises(UserError, match=r"Trace file nowhere\.safetensors does not exist"):
        main(["nowhere.safetensors"])


def test_help_teaches_with_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0 and "python -m sim info demo" in capsys.readouterr().out


@pytest.mark.parametrize("name", embedded_names())
def test_embedded_traces_are_described(name, capsys):
    assert main([name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gate"]
