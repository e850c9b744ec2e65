"""Tables as people have them: names of columns, layouts, encodings, gaps; the routing is that of test_presets."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.importing import imported, refused
from tests.traces.importers.test_presets import ROUTING

CELLS = [(token, layer, experts) for token, row in enumerate(ROUTING) for layer, experts in enumerate(row)]
LAYERS = sorted(CELLS, key=lambda cell: cell[1])


def text(head, row_of, cells=CELLS, separator=","):
    """A row per rank where `row_of` gives several, else one per cell."""
    rows = [row for cell in cells for row in row_of(*cell)]
    return "\n".join([separator.join(head), *(separator.join(map(str, row)) for row in rows)]) + "\n"


def ranks(token, layer, experts):
    return [(token, layer, rank, expert) for rank, expert in enumerate(experts)]


LONG = text(["token", "layer", "rank", "expert"], ranks)
WAYS = {
    "long.csv": LONG,
    "layers.csv": text(["token", "layer", "rank", "expert"], ranks, LAYERS),
    "mark.csv": "\ufeff" + LONG,
    "lines.csv": LONG.replace("\n", "\r\n"),
    "semicolon.csv": LONG.replace(",", ";"),
    "tabs.tsv": LONG.replace(",", "\t"),
    "tabs.txt": LONG.replace(",", "\t"),
    "turned.csv": "\n".join([LONG.split("\n")[0], *sorted(LONG.split("\n")[1:-1], key=lambda row: row[::-1])]) + "\n",
    "floats.csv": text(
        ["tok", "layer", "rank", "expert"], lambda t, la, e: [(f"{t}.0", la, k, f"{x}.0") for k, x in enumerate(e)]
    ),
    "one.csv": text(
        ["Token", "Layer", "Rank", "Expert ID"], lambda t, la, e: [(t + 1, la + 1, k + 1, x) for k, x in enumerate(e)]
    ),
    "names.csv": text(
        ["position", "layer_name", "expert_ids"], lambda t, la, e: [(t, f"model.layers.{la + 3}.mlp", f'"{e}"')]
    ),
    "wide.csv": text(["seq", "pos", "layerIdx", "expert_0", "expert_1"], lambda t, la, e: [("req-7f", t, la, *e)]),
    "spaces.csv": text(["pos", "layer", "topk_ids"], lambda t, la, e: [(t, la, f"{e[0]} {e[1]}")]),
    "order.csv": text(["layer", "experts"], lambda t, la, e: [(la, f'"{e}"')]),
    "list.json": json.dumps([{"token": t, "layer": la, "topk_ids": e} for t, la, e in CELLS]),
    "camel.jsonl": "".join(
        json.dumps({"requestId": 1, "tokenIdx": t, "layerIdx": la, "expertIds": e, "isDecode": True}) + "\n"
        for t, la, e in CELLS
    ),
    "zeros.csv": LONG + "".join(f"{token},5,{rank},0\n" for token in range(5) for rank in range(2)),
    "none.csv": LONG + "".join(f"{token},5,0,-1\n" for token in range(5)),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_the_same_routing_in_any_table(tmp_path, name):
    (tmp_path / name).write_bytes(WAYS[name].encode())
    trace = imported("table", tmp_path / name, "--num-experts", "4")
    np.testing.assert_array_equal(np.sort(trace.topk_ids), np.sort(ROUTING))
    assert trace.prompt_len.tolist() == [0] and not trace.fewer
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(WAYS[name].encode()))
    again = imported("table", tmp_path / f"{name}.gz", "--num-experts", "4")
    np.testing.assert_array_equal(again.topk_ids, trace.topk_ids)


def weighted(change=None, **more):
    """JSON lines with the router's scores, weights made of them, as `change` alters a record."""
    lines = []
    for token, layer, experts in CELLS:
        logits = np.array([3.0 - experts.index(e) if e in experts else -float(e) for e in range(4)])
        shares = np.exp(logits) / np.exp(logits).sum()
        weights = shares[experts] / shares[experts].sum()
        record = {"token": token, "layer": layer, "experts": experts, "weights": weights.tolist()}
        record["scores"] = (shares if more.get("shares") else logits).tolist()
        lines.append(json.dumps(record if change is None else change(record)))
    return "\n".join(lines)


@pytest.mark.parametrize("shares", [False, True])
def test_scores_become_logits_where_the_weights_prove_it(tmp_path, shares):
    (tmp_path / "a.jsonl").write_text(weighted(shares=shares))
    trace = imported("table", tmp_path / "a.jsonl")
    assert trace.num_experts == 4 and trace.score_function == "softmax_topk"
    chosen = np.take_along_axis(trace.gate_scores(0, 5), trace.topk_ids.astype(int), -1)
    np.testing.assert_allclose(chosen / chosen.sum(-1, keepdims=True), trace.topk_weights, atol=1e-5)


@pytest.mark.parametrize("shares", [False, True])
def test_scores_and_weights_printed_with_three_digits_prove_each_other(tmp_path, shares):
    def printed(record):
        return record | {name: [float(f"{value:.3f}") for value in record[name]] for name in ("weights", "scores")}

    (tmp_path / "a.jsonl").write_text(weighted(printed, shares=shares))
    assert imported("table", tmp_path / "a.jsonl").score_function == "softmax_topk"


def test_one_expert_of_weight_1_proves_nothing_of_its_scores(tmp_path):
    def one(record):
        return record | {"experts": record["experts"][:1], "weights": [1.0]}

    def best_last(record):
        return one(record) | {"scores": record["scores"][::-1]}

    (tmp_path / "a.jsonl").write_text(weighted(one))
    assert imported("table", tmp_path / "a.jsonl").router_logits is not None
    (tmp_path / "b.jsonl").write_text(weighted(best_last))
    assert imported("table", tmp_path / "b.jsonl").router_logits is None


def test_scores_that_nothing_explains_are_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text(weighted(lambda record: record | {"weights": [0.99, 0.01]}))
    trace = imported("table", tmp_path / "a.jsonl")
    assert trace.router_logits is None and trace.score_function is None
    assert "Scores are left out: no known function of them gives the weights." in trace.provenance["notes"]


def test_prompts_contexts_and_turns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(LONG)
    assert imported("table", path, "--prompt-len", "2").phase.tolist() == [0, 0, 1, 1, 1]
    decoded = imported("table", path, "--prompt-len", "20", "--decode-only")
    assert decoded.positions().tolist() == [20, 21, 22, 23, 24] and decoded.prompt_len.tolist() == [20]
    path.write_text("\n".join(row for row in LONG.split("\n") if row[:1] not in "01"))
    assert imported("table", path).prompt_len.tolist() == [2]
    rows = [
        {"chat": "c", "turn": turn, "token": token, "layer": layer, "experts": ROUTING[token][layer],
         "phase": "prefill" if token in (0, 1) or (turn and token < 4) else "decode"}
        for turn, tokens in ((0, range(3)), (1, range(5))) for token in tokens for layer in range(2)
    ]  # fmt: skip
    path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    trace = imported("table", path.with_suffix(".jsonl"))  # the second turn computes all tokens again
    assert trace.phase.tolist() == [0, 0, 1, 0, 1] and trace.num_requests == 1
    np.testing.assert_array_equal(trace.topk_ids, ROUTING)


def test_blank_lines_between_records_hold_nothing(tmp_path):
    lines = [json.dumps({"token": t, "layer": layer, "experts": experts}) for t, layer, experts in CELLS]
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines) + "\n \n\n")
    np.testing.assert_array_equal(imported("table", tmp_path / "a.jsonl").topk_ids, ROUTING)
    own = [json.dumps({"request": 0, "token": t, "layer": layer, "experts": experts}) for t, layer, experts in CELLS]
    (tmp_path / "b.jsonl").write_text("\r\n\r\n".join(own))
    np.testing.assert_array_equal(imported("jsonl", tmp_path / "b.jsonl", "--num-experts", "4").topk_ids, ROUTING)


def test_layers_written_as_other_numbers(tmp_path):
    """As pandas writes whole numbers beside missing ones; a sign is none of a name."""
    path, rows = tmp_path / "a.csv", [row.split(",") for row in LONG.strip().split("\n")]
    for sign, ending in (("", ".0"), ("+", "")):
        body = [",".join([row[0], sign + row[1] + ending, *row[2:]]) for row in rows[1:]]
        path.write_text("\n".join([",".join(rows[0]), *body]))
        np.testing.assert_array_equal(imported("table", path).topk_ids, ROUTING)
    path.write_text("\n".join([",".join(rows[0]), *(",".join([row[0], f"-{row[1]}", *row[2:]]) for row in rows[1:])]))
    refused("layer=-1: must be an integer from 0 to 65535", "table", path)


def test_requests_that_no_column_names_begin_where_tokens_do(tmp_path):
    (tmp_path / "a.csv").write_text(LONG + LONG.partition("\n")[2])
    trace = imported("table", tmp_path / "a.csv")
    assert trace.request_offsets.tolist() == [0, 5, 10]


def test_fewer_experts_and_missing_layers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(row for row in LONG.split("\n") if row != "2,1,1,1"))
    trace = imported("table", path)
    assert trace.fewer and trace.topk_ids[2, 1].tolist() == [2, 255]
    path.write_text("\n".join(row for row in LONG.split("\n") if row[:4] != "2,1,"))
    refused("token 2 has none of MoE layer 1", "table", path)
    assert imported("table", path, "--allow-missing").topk_ids[2, 1].tolist() == [255, 255]


def test_columns_are_named_on_the_command_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(LONG.replace("token,layer,rank,expert", "a,b,c,d"))
    refused("has no column that is recognised as layer: name it with --layer", "table", path)
    named = ("--token", "a", "--layer", "b", "--rank", "c", "--experts", "d")
    np.testing.assert_array_equal(imported("table", path, *named).topk_ids, ROUTING)
    refused("has no column 'e' for experts; known are 'a'", "table", path, "--layer", "b", "--experts", "e")
    path.write_text(LONG.partition("\n")[2])
    refused("line 1 holds numbers in place of names", "table", path)
    np.testing.assert_array_equal(imported("table", path, "--header", "token,layer,rank,expert").topk_ids, ROUTING)


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda text: "", (), "a.csv has no rows"),
        (lambda text: text.partition("\n")[0], (), "a.csv has no rows"),
        (lambda text: text + "3,1,0,1\n", (), "line 22 gives token 3, layer 1, rank 0 a second time"),
        (lambda text: text.replace("2,1,0,2\n", ""), (), "gives token 2, layer 1, rank 1, and rank 0 is missing"),
        (lambda text: text.replace("\n2,", "\n9,"), (), "token 1 is followed by token 3"),
        (lambda text: text.replace("2,1,0,2", "2,1,0,x"), (), "line 12: expert='x': must be an integer"),
        (lambda text: text.replace("2,1,0,2", "2,1,0,-2"), (), "line 12: expert=-2: must be an integer from 0"),
        (lambda text: text.replace("2,1,0,2", "2,1,0"), (), "line 12 has 3 columns: must have 4"),
        (lambda text: text.replace("2,1,0,2", "2,one,0,2"), (), "line 12: layer='one': must be a number"),
        (lambda text: text, ("--num-experts", "3"), "expert=3: must be an integer from 0 to 2"),
        (lambda text: text, ("--prompt-len", "9"), "--prompt-len=9: must be at most 5"),
        (lambda text: text, ("--dense-layers", "0,1"), "has no layer with experts"),
        (lambda text: text, ("--top-k", "0"), "--top-k=0: must be from 1"),
        (lambda text: text.replace("rank", "token", 1), (), "has the column 'token' twice"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, change, options, sentence):
    path: Path = tmp_path / "a.csv"
    path.write_text(change(LONG))
    refused(sentence, "table", path, *options)


def test_shared_cases_import_with_the_same_ids(shared_cases):
    reference = imported("table", shared_cases / "field/E2_llama_moe_trace_fork.csv")
    for name, importer in {
        "A_lattice.jsonl": "lattice", "B_moe_cache_lab_v1.jsonl": "moe_cache_lab", "C_expertflow.jsonl": "expertflow",
        "D_megatron.jsonl": "megatron", "E1_llama_moe_trace.csv": "llama_moe_trace", "J_long.parquet": "moe_policylang",
        "K_own_jsonl_layers_1_2.jsonl": "jsonl",
    }.items():  # fmt: skip
        for one in (importer, "table"):
            trace = imported(one, shared_cases / "field" / name, "--num-experts", "8")
            np.testing.assert_array_equal(np.sort(trace.topk_ids), np.sort(reference.topk_ids))
    refused("nearest is 'phase'", "jsonl", shared_cases / "field/K2_own_jsonl_misspelt.jsonl")
    decoded = imported("jsonl", shared_cases / "field/K3_own_jsonl_decode_only.jsonl")
    assert decoded.prompt_len.tolist() == [5]
    answer = shared_cases / "field/H_sglang_response.json"
    trace = imported("routed_experts", answer, "--num-experts", "8", "--top-k", "2")
    np.testing.assert_array_equal(trace.topk_ids, reference.topk_ids[:11])
