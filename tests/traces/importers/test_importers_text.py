"""Importers of text on tiny files, good and malformed; each fault names file and line."""

import json

import pytest

from tests.support.importing import imported, refused
from traces.format.trace import DECODE, PREFILL


def test_the_prompts_union_is_exact_whatever_its_size(tmp_path):
    source = tmp_path / "a.txt"
    prompt = ["0,1,2,3,4,5,6,7", "1,3,5", "2,4"] + ["0,1,2,3,4"] * 29
    source.write_text("\n".join(prompt + ["3,4"] * 32 + ["0,7"] * 32) + "\n")
    trace = imported("mixtral_offloading", source)
    assert trace.phase.tolist() == [PREFILL] * 4 + [DECODE] * 2
    assert trace.prompt_len.tolist() == [4] and not trace.ranked
    for layer, line in enumerate(prompt):
        assert sorted(set(trace.topk_ids[:4, layer].reshape(-1).tolist())) == [int(text) for text in line.split(",")]
    assert trace.topk_ids[4:, 5].tolist() == [[3, 4], [0, 7]]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["0,1"] * 33, "has 33 lines, which is not a whole number of tokens"),
        (["0,1"] * 32 + ["0,1,2"], "line 33 has 3 experts; a decoded token uses 2"),
        (["0,1"] * 3 + ["0,8"], "line 4: '0,8' must be different experts from 0 to 7"),
        (["0,1"] * 3 + ["1,1"], "line 4: '1,1' must be different experts"),
        (["0,1"] * 3 + ["1,x"], "line 4: expert='x': must be an integer"),
        (["0,1"] * 3 + [""], "line 4: expert=''"),
        (["0"], "line 1 has one expert"),
        ([], "has 0 lines"),
        (["1" * 2_000_000], "line 1 is longer than"),
    ],
)
def test_malformed_lines_of_mixtral_are_named(tmp_path, lines, sentence):
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in lines))
    refused(sentence, "mixtral_offloading", tmp_path / "a.txt")


def test_binary_input_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    refused("is not UTF-8 text", "mixtral_offloading", tmp_path / "a.txt")


HEADER = [
    "# route_trace v1",
    "# model=/a/b.gguf arch=x n_layer=2 n_expert=4 n_expert_used=2",
    "# layer=0 expert_bytes=10 dense_bytes=7",
    "# layer=1 expert_bytes=20 dense_bytes=8",
    "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes",
]


def cells(phase, step, layer, experts, weights=(0.6, 0.4), turn=0):
    pairs = enumerate(zip(experts, weights, strict=True))
    return [f"{turn},{phase},{step},{layer},{slot},{e},{w},0,10" for slot, (e, w) in pairs]


# Layer 1 of the first prompt token is missing, as in the real recording.
BODY = [*cells(0, 0, 0, (0, 1)), *cells(0, 1, 0, (1, 2)), *cells(0, 1, 1, (3, 0)), *cells(1, 2, 0, (2, 3))]
BODY += cells(1, 2, 1, (1, 0))


def write(tmp_path, lines):
    path = tmp_path / "r.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_route_csv_becomes_rows_and_holes_take_the_next_token(tmp_path):
    trace = imported("big_moe_on_edge", write(tmp_path, HEADER + BODY))
    assert trace.topk_ids.tolist() == [[[0, 1], [3, 0]], [[1, 2], [3, 0]], [[2, 3], [1, 0]]]
    assert trace.phase.tolist() == [PREFILL, PREFILL, DECODE] and trace.prompt_len.tolist() == [2]
    assert trace.geometry.expert_bytes == (10, 20) and trace.geometry.attention_bytes == (7, 8)
    assert trace.provenance["filled_prefill_entries"] == 1
    assert trace.provenance["model_file"] == "b.gguf"


def test_each_turn_is_a_request(tmp_path):
    second = [*cells(1, 0, 0, (0, 1), turn=4), *cells(1, 0, 1, (0, 1), turn=4)]
    trace = imported("big_moe_on_edge", write(tmp_path, HEADER + second + BODY))
    assert trace.request_offsets.tolist() == [0, 3, 4] and trace.prompt_len.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "no line 'turn,phase"),
        (["hello"], "no line 'turn,phase"),
        (HEADER[:3] + HEADER[4:], "line 4: comment lines for the model and all its layers"),
        ([HEADER[1], HEADER[3]], "line 2: layer 0 is next"),
        (["# model=x n_layer=2"], "line 1: n_expert=''"),
        (["# model=x n_layer=99999999 n_expert=4 n_expert_used=2"], "line 1: sizes"),
        (HEADER, "no rows after its column names"),
        ([*HEADER, "0,0,0"], "line 6 has 3 columns: must have 9"),
        ([*HEADER, "0,0,0,0,0,4,0.5,0,10"], "line 6: expert=4: must be from 0 to 3"),
        ([*HEADER, "0,2,0,0,0,1,0.5,0,10"], "line 6: phase=2"),
        ([*HEADER, "0,0,0,0,0,1,half,0,10"], "line 6: weight='half'"),
        ([*HEADER, *cells(0, 0, 0, (0, 1)) * 2], "line 8 gives step 0, layer 0, slot 0 a second time"),
        (HEADER + BODY[:-1], "lacks slots of row 2"),
        (HEADER + BODY[:-2], "no experts for row 2 of turn 0 in layer 1"),
        (HEADER + BODY[:4], "no experts for row 1 of turn 0 in layer 1"),
        (HEADER + cells(1, 0, 0, (0, 1), (0.4, 0.6)) + cells(1, 0, 1, (0, 1)), "above the one before it"),
        (HEADER + cells(1, 0, 0, (0, 1), (0.4, "nan")) + cells(1, 0, 1, (0, 1)), "the value is NaN"),
    ],
)
def test_malformed_lines_of_a_route_csv_are_named(tmp_path, lines, sentence):
    refused(sentence, "big_moe_on_edge", write(tmp_path, lines))


def test_moe_beyond_reads_layers_in_turn_with_any_token_text(tmp_path):
    lines = ["Layer ID,Batch Number,Token,Activated Expert IDs"]
    lines += ['1,0,ok,"[3, 1]"', '1,0,",","[0, 2]"', '2,0,ok,"[5, 4]"', '2,0,",","[6, 7]"']
    (tmp_path / "prompt_2.csv").write_text("\n".join(lines))
    (tmp_path / "prompt_10.csv").write_text("\n".join(lines[:2] + lines[3:4]))
    trace = imported("moe_beyond", tmp_path)
    assert trace.topk_ids.tolist() == [[[3, 1], [5, 4]], [[0, 2], [6, 7]], [[3, 1], [5, 4]]]
    assert trace.phase.tolist() == [PREFILL] * 3 and trace.prompt_len.tolist() == [2, 1]
    for content, sentence in [
        ("a,b", "line 1: must be the columns Layer ID"),
        (lines[0], "has no rows"),
        (f'{lines[0]}\n1,0,ok,"[64]"', "line 2: must be 1 experts from 0 to 63"),
        (f'{lines[0]}\n1,0,ok,"3"', "line 2: must be layer, batch, token"),
        ("\n".join(lines[:4]), "layer 2 lists other tokens than layer 1"),
    ]:
        (tmp_path / "bad.csv").write_text(content)
        refused(sentence, "moe_beyond", tmp_path / "bad.csv")


def record(request, token, layer, experts, **more):
    return json.dumps({"request": request, "token": token, "layer": layer, "experts": experts, **more})


def test_jsonl_sorts_rows_and_ranks_by_weight(tmp_path):
    lines = [record("b", 1, 0, [1, 2], weights=[0.2, 0.8]), record("b", 0, 0, [3, 4], weights=[1, 0], phase="prefill")]
    lines.append(record("a", 0, 0, [5, 6], weights=[0.5, 0.5]))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    trace = imported("jsonl", tmp_path / "a.jsonl", "--num-experts", "8")
    assert trace.topk_ids[:, 0].tolist() == [[3, 4], [2, 1], [5, 6]]
    assert trace.phase.tolist() == [PREFILL, DECODE, DECODE] and trace.prompt_len.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["{"], "line 1 is not JSON"),
        ([], "has no lines"),
        (["[]"], "line 1: must be an object of names and values, not list"),
        ([record(0, -1, 0, [1])], "line 1: token=-1"),
        ([record(0, 0, 0, [8])], "line 1: expert=8: must be an integer from 0 to 7"),
        ([record(0, 0, 0, [])], "has no layer with experts"),
        ([record(0, 0, 0, [1]), record(0, 2, 0, [1])], "token 0 of request 0 is followed by token 2"),
        ([record(0, 0, 0, [1])] * 2, "line 2 gives request 0, token 0, layer 0 a second time"),
        (
            [record(0, 0, 0, [1]), record(0, 1, 0, [1], weights=[1])],
            "line 1 has no weight: must be in all lines or in none",
        ),
        ([record(0, 0, 0, [1], weights=["x"])], "line 1: weight='x': must be a finite number"),
        ([record(0, 0, 0, [1], phase="x")], "line 1: phase='x'"),
        ([record(0, 0, 0, [1]), record(0, 0, 1, [1], phase="prefill")], "line 2: the phase of a token"),
        (
            [record(0, 0, 0, [1]), record(0, 1, 1, [1])],
            "has 2 cells for 2 tokens of 2 layers: token 0 of request 0 has none of MoE layer 1",
        ),
        ([record(0, 0, 0, [1], weights=[1e300])], "line 1: weight=1e+300: must be a finite number"),
    ],
)
def test_malformed_jsonl_is_named(tmp_path, lines, sentence):
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    refused(sentence, "jsonl", tmp_path / "a.jsonl", "--num-experts", "8")
