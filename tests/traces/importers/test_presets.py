"""The layouts of other tools: the same small routing in each, whose hits under LRU are worked out by hand.

Two layers, four experts, two of them per token; a prompt of two tokens, then three decoded ones:

    layer 0: {0,1} {1,0} | {0,1} {2,3} {3,2}      layer 1: {0,1} {2,3} | {2,1} {1,2} {0,3}

With two slots per layer, in steps (the prompt is one; beyond capacity a step keeps its most recent experts):
layer 0: 0,1 miss; both hit; 2,3 miss; both hit: 4 hits of 8. Layer 1: all four miss and 2,3 stay; 2 hits and 1 takes
the place of 3; both hit; 0,3 miss: 3 hits of 10.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.support.importing import imported, refused
from tests.support.replays import replay_of, run
from traces.format.trace import DECODE, PREFILL

FILES = Path(__file__).parent / "files"
PRESETS = {
    "llama_moe_trace.csv": ("llama_moe_trace",),
    "llama_moe_trace_ranks.csv": ("llama_moe_trace",),
    "megatron.jsonl": ("megatron",),
    "moe_cache_lab.jsonl": ("moe_cache_lab",),
    "expertflow.jsonl": ("expertflow",),
    "lattice.jsonl": ("lattice", "--prompt-len", "2"),
    "moe_policylang.parquet": ("moe_policylang",),
    "jsonl.jsonl": ("jsonl",),
}
SAID = ("moe_cache_lab.jsonl",)
"""Files that say how many experts there are."""
ROUTING = [
    [[0, 1], [0, 1]],
    [[1, 0], [2, 3]],
    [[0, 1], [2, 1]],
    [[2, 3], [1, 2]],
    [[3, 2], [0, 3]],
]


@pytest.mark.parametrize("file", PRESETS)
@pytest.mark.parametrize("general", [False, True])
def test_each_layout_gives_the_hits_worked_out_by_hand(file, general):
    name, *options = PRESETS[file]
    options += ["--expert-bytes", "1000"] + ([] if file in SAID else ["--num-experts", "4"])
    trace = imported("table" if general else name, FILES / file, *options)
    np.testing.assert_array_equal(trace.topk_ids, ROUTING)
    assert trace.phase.tolist() == [PREFILL] * 2 + [DECODE] * 3 and trace.prompt_len.tolist() == [2]
    assert trace.num_experts == 4
    metrics = run(replay_of(trace, "lru", engine="untimed", slots_per_layer=2))
    assert metrics["hit_rate"] == pytest.approx(7 / 18)
    assert metrics["decode.hit_rate"] == pytest.approx(7 / 12)


@pytest.mark.parametrize("file", sorted(set(PRESETS) - set(SAID)))
def test_a_number_of_experts_that_is_not_said_is_the_least_and_noted(file):
    name, *options = PRESETS[file]
    trace = imported(name, FILES / file, *options)
    assert trace.num_experts == 4
    assert any("4 is the least that there can be" in note for note in trace.provenance["notes"])


def changed(tmp_path, file, old, new):
    text = (FILES / file).read_text()
    assert old in text
    path = tmp_path / file
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("jsonl.jsonl", '"phase"', '"Phase"', "has the field 'Phase', which jsonl does not know; nearest is 'phase'"),
        (
            "jsonl.jsonl",
            '"experts"',
            '"expert"',
            "has the field 'expert', which jsonl does not know; nearest is 'experts'",
        ),
        ("moe_cache_lab.jsonl", '"format_version": 1', '"format_version": 2', "has format_version=2: must be 1"),
        ("moe_cache_lab.jsonl", '"routing_selection"', '"other"', "line 2: record_type='other'"),
        ("expertflow.jsonl", '"1.0.0"', '"2.0.0"', "line 1: schema_version='2.0.0': must be '1.0.0'"),
        ("llama_moe_trace_ranks.csv", "phase,", "Phase,", "has the field 'Phase'"),
        ("llama_moe_trace_ranks.csv", "decode,2", "draft,2", "line 10: phase='draft': must be 'prefill' or 'decode'"),
        ("llama_moe_trace.csv", "0,1\n", "", "line 2 begins 3 rows of layer 0, which are not a whole number"),
        ("megatron.jsonl", "[[0, 1], [1, 0]]", "[[0, 1]]", "has 9 cells for 5 tokens of 2 layers"),
        ("lattice.jsonl", "[0, 1]", "[0, 0]", "line 1: an expert is listed twice in [0, 0]"),
        ("lattice.jsonl", "0.75", "NaN", "line 1: weight=nan: must be a finite number"),
    ],
)
def test_what_a_layout_does_not_have_is_named(tmp_path, file, old, new, sentence):
    name, *options = PRESETS[file]
    refused(sentence, name, changed(tmp_path, file, old, new), *options)
