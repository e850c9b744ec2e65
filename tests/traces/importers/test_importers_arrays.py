"""Importers of numpy arrays on tiny files, good and malformed."""

import numpy as np
import pytest

from tests.support.importing import imported, refused
from traces.format.ranks import signed_ids
from traces.format.trace import DECODE, PREFILL


def routed(rng, tokens, layers=3, top_k=2, experts=8):
    return np.argsort(rng.random((tokens, layers, experts)), -1)[..., :top_k].astype(np.int32)


def routed_trace(source, *options):
    return imported("routed_experts", source, "--num-experts", "8", *options)


def routed_refused(sentence, source, *options):
    refused(sentence, "routed_experts", source, "--num-experts", "8", *options)


def test_an_npy_file_is_one_request_and_all_decode_unless_told(tmp_path):
    array = routed(np.random.default_rng(0), 6)
    np.save(tmp_path / "a.npy", array)
    trace = routed_trace(tmp_path / "a.npy")
    np.testing.assert_array_equal(trace.topk_ids, array)
    assert trace.phase.tolist() == [DECODE] * 6 and not trace.ranked
    assert any("every row counts as decode" in note for note in trace.provenance["notes"])
    prompt = routed_trace(tmp_path / "a.npy", "--prompt-len", "4", "--ranked", "--expert-bytes", "9")
    assert prompt.phase.tolist() == [PREFILL] * 4 + [DECODE] * 2 and prompt.ranked
    assert prompt.geometry.expert_bytes == (9, 9, 9)


def test_requests_come_in_natural_order(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"request_{i}": routed(rng, i) for i in (2, 10, 1)}
    np.savez_compressed(tmp_path / "all.npz", **arrays)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    for source in (tmp_path / "all.npz", folder):
        trace = routed_trace(source, "--prompt-len", "1,1,4")
        assert trace.request_offsets.tolist() == [0, 1, 3, 13]
        assert trace.prompt_len.tolist() == [1, 1, 4]
        np.testing.assert_array_equal(trace.topk_ids[3:], arrays["request_10"])


@pytest.mark.parametrize("dense", [0, -1])
def test_dense_layers_are_left_out_named_or_not(tmp_path, dense):
    array = routed(np.random.default_rng(0), 6)
    array[:, 0] = dense
    np.save(tmp_path / "a.npy", array)
    found = routed_trace(tmp_path / "a.npy")
    named = routed_trace(tmp_path / "a.npy", "--dense-layers", "0")
    for trace in (found, named):
        np.testing.assert_array_equal(trace.topk_ids, array[:, 1:])
    assert found.provenance["notes"][0] == "Layers without experts (all ids are 0 or -1), left out: 0."
    np.save(tmp_path / "a.npy", np.full_like(array, dense))
    routed_refused("no layer has experts", tmp_path / "a.npy")


def test_rows_of_minus_one_at_the_beginning_are_a_cached_prefix(tmp_path):
    array = routed(np.random.default_rng(0), 9)
    array[:3] = -1
    np.save(tmp_path / "a.npy", array)
    trace = routed_trace(tmp_path / "a.npy", "--prompt-len", "5")
    np.testing.assert_array_equal(trace.topk_ids, array[3:])
    assert trace.phase.tolist() == [PREFILL] * 2 + [DECODE] * 4
    assert trace.prompt_len.tolist() == [5] and trace.positions().tolist() == [3, 4, 5, 6, 7, 8]
    assert routed_trace(tmp_path / "a.npy").prompt_len.tolist() == [3]


def test_an_id_of_minus_one_among_others_is_a_rank_without_an_expert(tmp_path):
    array = routed(np.random.default_rng(0), 6)
    array[4, 1, 0] = -1
    np.save(tmp_path / "a.npy", array)
    trace = routed_trace(tmp_path / "a.npy")
    assert trace.fewer and signed_ids(trace.topk_ids, True)[4, 1].tolist() == [array[4, 1, 1], -1]


def test_malformed_arrays_are_refused(tmp_path):
    array = routed(np.random.default_rng(0), 6)
    negative = array.copy()
    negative[4, 1, 0] = -2
    cases = {
        "negative": (negative, "holds expert -2 at index [4, 1, 0]: must be from 0 to 7, or -1 for none"),
        "floats": (array.astype(np.float32), "is of type float32: expert ids must be integers"),
        "flat": (array[0], "has shape (3, 2): must be (tokens, layers, top_k)"),
        "text": (np.array(["a"]), "must be integers or floats"),
        "pickle": (np.array([{}], object), "nothing is unpickled"),
    }
    for name, (content, sentence) in cases.items():
        np.save(tmp_path / f"{name}.npy", content, allow_pickle=True)
        routed_refused(sentence, tmp_path / f"{name}.npy")
        np.savez(tmp_path / f"{name}.npz", a=content, allow_pickle=True)
    np.savez(tmp_path / "pickle.npz", a=cases["pickle"][0])
    routed_refused("nothing is unpickled", tmp_path / "pickle.npz")
    np.save(tmp_path / "good.npy", array)
    source = tmp_path / "good.npy"
    refused("holds expert 7", "routed_experts", source, "--num-experts", "7")
    refused(
        "--prompt-len=9: must be at most 6, the tokens",
        "routed_experts",
        source,
        "--num-experts",
        "8",
        "--prompt-len",
        "9",
    )
    routed_refused("has 2 lengths for 1 requests", source, "--prompt-len", "1,2")
    routed_refused("has 2 sizes for 3", source, "--expert-bytes", "1,2")
    routed_refused("--dense-layers=5", source, "--dense-layers", "5")
    (tmp_path / "cut.npy").write_bytes(source.read_bytes()[:-1])
    routed_refused("does not have the size its header claims", tmp_path / "cut.npy")
    (tmp_path / "no.npy").write_bytes(b"not numpy")
    routed_refused("cannot be read", tmp_path / "no.npy")
    (tmp_path / "no.npz").write_bytes(b"not a zip")
    routed_refused("is not a whole .npz file", tmp_path / "no.npz")
    (tmp_path / "empty").mkdir()
    routed_refused("holds no arrays", tmp_path / "empty")


def test_an_array_that_claims_terabytes_takes_no_memory(tmp_path):
    with (tmp_path / "huge.npy").open("wb") as file:
        header = {"descr": "<i4", "fortran_order": False, "shape": (10**9, 1000, 8)}
        np.lib.format.write_array_header_1_0(file, header)
    routed_refused("claims 32000000000000 bytes", tmp_path / "huge.npy")


def gpt_oss_folder(tmp_path, **changes):
    ids = np.array([[[0, 1]], [[2, 3]], [[31, 4]]], np.uint8)
    parts = {"experts": ids, "offsets": np.array([0, 2, 3]), "prompt_len": np.array([5, 6])} | changes
    weights = parts.pop("weights", np.full((3, 1, 2), 0.5, np.float16))
    records = parts.pop("records", ['{"dataset": "a", "repetition": true}', '{"dataset": "b"}'])
    np.savez_compressed(tmp_path / "experts.npz", **parts)
    np.savez_compressed(tmp_path / "weights_f16.npz", weights=weights)
    (tmp_path / "requests.jsonl").write_text("\n".join(records) + "\n")
    return tmp_path


def test_gpt_oss_labels_requests_by_data_set(tmp_path):
    trace = imported("gpt_oss", gpt_oss_folder(tmp_path))
    assert trace.request_labels == ("a", "b") and trace.provenance["requests_with_repetition"] == [0]
    assert trace.positions().tolist() == [5, 6, 6] and trace.phase.tolist() == [DECODE] * 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"experts": np.full((3, 1, 2), 32)}, "holds expert 32 at index [0, 0, 0]"),
        ({"experts": np.zeros((3, 1), int)}, "has shape (3, 1)"),
        ({"experts": np.array([None])}, "nothing is unpickled"),
        ({"offsets": np.array([0, 2, 4])}, "request_offsets run from 0 to 4: must be from 0 to 3"),
        ({"weights": np.zeros((2, 1, 2), np.float16)}, "'topk_weights' has shape (2, 1, 2)"),
        ({"records": ["{}", "{}"]}, "requests.jsonl line 1 has no text field 'dataset'"),
        ({"records": ['{"dataset": "a"}', "{"]}, "requests.jsonl line 2 is not JSON"),
        ({"records": ['{"dataset": "a"}']}, "has 1 records for 2 requests"),
    ],
)
def test_malformed_gpt_oss_folders_are_refused(tmp_path, changes, sentence):
    refused(sentence, "gpt_oss", gpt_oss_folder(tmp_path, **changes))


def test_a_missing_array_is_named(tmp_path):
    gpt_oss_folder(tmp_path)
    np.savez(tmp_path / "experts.npz", other=np.zeros(1))
    refused("experts.npz has no array 'experts'; it has other", "gpt_oss", tmp_path)
