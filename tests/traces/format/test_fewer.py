"""Ranks without an expert in a file: the second version of the format, what it refuses, and statistics over it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.support.random_traces import ids_trace, recorded_trace, with_fewer
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.ranks import signed_ids, stored_ids, use_counts
from traces.statistics.miss_curve import lru_miss_curve
from traces.statistics.routing import expert_uses, experts_per_token, next_token_reuse
from traces.statistics.summary import summarize


def version_of(path):
    with path.open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]["schema_version"]


def fewer_trace(rows, experts=4, **changes):
    """Rows [T][L][K] of ids with -1 for none."""
    ids = stored_ids(np.array(rows), experts)
    return ids_trace(ids, experts, fewer=True, **changes)


def test_a_file_says_so_in_its_version(tmp_path):
    full, fewer = tmp_path / "full.safetensors", tmp_path / "fewer.safetensors"
    write_trace(full, recorded_trace())
    written = write_trace(fewer, with_fewer(recorded_trace(), 0.5))
    assert (version_of(full), version_of(fewer)) == ("1", "2")
    found = read_trace(fewer)
    assert found.fewer
    assert not read_trace(full).fewer
    assert found.content_hash == written.content_hash
    ids = signed_ids(np.asarray(found.topk_ids), True)
    assert (ids == -1).any()
    assert ids.max() < found.num_experts


def test_the_largest_number_is_an_expert_where_the_version_is_the_first(tmp_path):
    """256 experts fit a byte; where tokens may use fewer they need two."""
    trace = ids_trace([[[255, 3]], [[1, 2]]], 256)
    write_trace(tmp_path / "t.safetensors", trace)
    assert expert_uses(trace)[0, 255] == 1
    with pytest.raises(UserError, match="whose largest number stands for no expert here: must be uint16"):
        write_trace(tmp_path / "u.safetensors", replace(trace, fewer=True))
    wide = replace(trace, fewer=True, topk_ids=stored_ids(np.array([[[255, 3]], [[-1, -1]]]), 256))
    write_trace(tmp_path / "u.safetensors", wide)
    assert expert_uses(read_trace(tmp_path / "u.safetensors"))[0, 255] == 1


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[[-1, 2]]], "row 0, layer 0, column 1: expert 2 stands behind a rank without an expert"),
        ([[[1, -1]], [[4, -1]]], "row 1, layer 0, column 0: expert 4 is out of range"),
        ([[[1, 1]]], "listed twice"),
    ],
)
def test_ids_are_checked(rows, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        write_trace(tmp_path / "t.safetensors", fewer_trace(rows))


def test_a_rank_without_an_expert_has_no_weight(tmp_path):
    weights = np.array([[[0.6, 0.4]]], np.float32)
    with pytest.raises(UserError, match=r"column 1: the value is 0\.4\d*: must be 0 where topk_ids holds no expert"):
        write_trace(tmp_path / "t.safetensors", fewer_trace([[[1, -1]]], topk_weights=weights))


def test_without_the_flag_the_number_is_out_of_range(tmp_path):
    trace = replace(fewer_trace([[[1, -1]]]), fewer=False)
    with pytest.raises(UserError, match="expert 255 is out of range"):
        write_trace(tmp_path / "t.safetensors", trace)


def test_statistics_count_what_is_used():
    """Layer 0: experts 1 2, 1, none, 1; layer 1: none, 3, 3 0, 3."""
    trace = fewer_trace([[[1, 2], [-1, -1]], [[1, -1], [3, -1]], [[-1, -1], [3, 0]], [[1, -1], [3, -1]]])
    assert expert_uses(trace).tolist() == [[0, 3, 1, 0], [1, 0, 0, 3]]
    assert experts_per_token(trace) == 8 / 8
    assert next_token_reuse(trace) == 3 / 6  # 1 once, 3 twice, of 1, 0, 1 and 1, 2, 1 experts
    curve = lru_miss_curve(trace)
    assert curve.demands.sum() == 8
    assert curve.hits[:, :, 1].sum(axis=0).tolist() == [1, 1]  # one slot keeps the last expert of a step
    assert curve.hits[:, :, 2].sum(axis=0).tolist() == [2, 2]
    assert use_counts(trace.topk_ids, True, 4).sum() == 8


def test_a_summary_of_scores_counts_what_is_used():
    whole, fewer = summarize(recorded_trace(num_layers=3)), summarize(with_fewer(recorded_trace(num_layers=3), 0.5))
    assert whole["locality"]["experts_per_token"] == 2
    assert 0 < fewer["locality"]["experts_per_token"] < 2
    assert fewer["gate"]["gate_slope"] > whole["gate"]["gate_slope"]  # the last ranks have the lowest scores
