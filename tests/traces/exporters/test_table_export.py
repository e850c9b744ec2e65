"""A trace written as a table and imported again is the same trace."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.importing import imported
from tests.support.random_traces import random_trace, recorded_trace
from traces.errors import UserError
from traces.exporters.table import left_out, write_routing
from traces.format.files import write_trace
from traces.format.ranks import stored_ids


def turns():
    """Two requests, one of two turns with a cached prefix, one of decode alone with a prompt of one token."""
    trace = random_trace(0, prompts=(2, 0), decodes=(4, 2))
    phase = np.array([0, 0, 1, 1, 0, 1, 1, 1], np.uint8)
    weights = -np.sort(-np.random.default_rng(1).random(trace.topk_ids.shape), -1).astype(np.float16)
    return replace(
        trace, phase=phase, prompt_len=np.array([5, 1], np.int32), topk_weights=weights, ranked=True,
        router_logits=None, selection_scores=None, lookahead_before=None, lookahead_after=None,
        request_labels=("a", "b"), expert_similarity=None, topk_ids=trace.topk_ids.astype(np.uint8),
    )  # fmt: skip


def fewer():
    trace = turns()
    ids = trace.topk_ids.astype(np.int32)
    ids[3, 0, -1] = -1
    weights = trace.topk_weights.copy()
    weights[3, 0, -1] = 0
    ids[4, 1], weights[4, 1] = -1, 0
    return replace(trace, topk_ids=stored_ids(ids, trace.num_experts), topk_weights=weights, fewer=True)


def plain():
    return replace(turns(), topk_weights=None, ranked=False, token_ids=np.arange(8, dtype=np.int32))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "wide.parquet", "long.jsonl"])
@pytest.mark.parametrize("make", [turns, fewer, plain])
def test_what_is_written_and_imported_again_has_the_same_content(tmp_path, name, make):
    trace = write_trace(tmp_path / "t.safetensors", make())
    layout = name.partition(".")[0] if len(name.partition(".")[0]) > 1 else None
    rows = write_routing(tmp_path / name, trace, layout)
    assert rows > 0
    again = imported("table", tmp_path / name)
    assert write_trace(tmp_path / "again.safetensors", again).content_hash == trace.content_hash
    assert again.request_labels == trace.request_labels
    if name == "a.jsonl":
        assert imported("jsonl", tmp_path / name).num_tokens == trace.num_tokens


def test_what_no_table_holds_is_named(tmp_path):
    trace = recorded_trace(0)
    assert "router_logits" in left_out(trace)
    with pytest.raises(UserError, match=r"must end in \.csv, \.tsv, \.parquet, \.jsonl"):
        write_routing(tmp_path / "a.xlsx", trace)
    with pytest.raises(UserError, match="csv has no lists"):
        write_routing(tmp_path / "a.csv", trace, "wide")
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_contradict_the_rows_are_refused(tmp_path):
    write_routing(tmp_path / "a.csv", turns())
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text.replace('"num_layers": 3', '"num_layers": 4', 1))
    with pytest.raises(UserError, match="the table says num_layers=4, and its rows 3"):
        imported("table", tmp_path / "a.csv")
