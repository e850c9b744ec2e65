"""Trace files: round trips, equal bytes, and every way a file can be damaged."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tests.support.random_traces import recorded_trace
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.tensors import hash_content, trace_tensors


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=4),
    layers=st.integers(1, 3),
    experts=st.integers(5, 9),
    scores=st.booleans(),
    width=st.sampled_from([None, 4]),
    half=st.booleans(),
)
def test_what_is_written_is_read(seed, lengths, layers, experts, scores, width, half):
    prompts, decodes = zip(*lengths, strict=True)
    trace = recorded_trace(seed, prompts, decodes, scores, width, half, num_layers=layers, num_experts=experts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        written = write_trace(path, trace)
        found = read_trace(path)
        raw = load_file(path)  # the library agrees on the format
    expected, tensors = trace_tensors(trace), trace_tensors(found)
    assert expected.keys() == tensors.keys() == raw.keys()
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)
        np.testing.assert_array_equal(raw[name], array)
    for field in ("geometry", "ranked", "score_function", "request_labels", "provenance"):
        assert getattr(found, field) == getattr(trace, field)
    assert found.content_hash == written.content_hash == hash_content(found)


def test_equal_traces_give_equal_bytes_and_the_hash_ignores_provenance(tmp_path):
    first = write_trace(tmp_path / "a", recorded_trace(5))
    write_trace(tmp_path / "b", recorded_trace(5))
    later = write_trace(tmp_path / "c", replace(recorded_trace(5), provenance={"date": "tomorrow"}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    assert first.content_hash == later.content_hash != write_trace(tmp_path / "d", recorded_trace(6)).content_hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]  # nothing left beside


def test_counts_of_drafts_are_read_back_and_belong_to_the_content(tmp_path):
    plain, counts = recorded_trace(5), np.array([[255, 0]] * 15, np.uint8)
    counts[3] = 3, 2
    with_counts = write_trace(tmp_path / "a", replace(plain, draft_counts=counts))
    assert read_trace(tmp_path / "a").draft_counts.tolist() == counts.tolist()
    counts[3] = 3, 1
    other = write_trace(tmp_path / "b", replace(plain, draft_counts=counts))
    without = write_trace(tmp_path / "c", plain)
    assert len({with_counts.content_hash, other.content_hash, without.content_hash}) == 3
    assert read_trace(tmp_path / "c").draft_counts is None


def test_an_invalid_trace_or_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t"
    write_trace(path, recorded_trace())
    before = path.read_bytes()
    with pytest.raises(UserError, match="NaN"):
        write_trace(path, replace(recorded_trace(), topk_weights=np.full_like(recorded_trace().topk_weights, np.nan)))
    with pytest.raises(UserError, match="provenance cannot be written as JSON"):
        write_trace(path, replace(recorded_trace(), provenance={"x": {1, 2}}))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        write_trace(path, recorded_trace(1))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_reading_maps_the_file(tmp_path):
    write_trace(tmp_path / "t", recorded_trace())
    trace = read_trace(tmp_path / "t")
    assert not trace.topk_ids.flags.owndata and not trace.topk_ids.flags.writeable


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "t.safetensors"
    write_trace(path, recorded_trace(width=5))
    return path.read_bytes()


def refused(tmp_path, content: bytes) -> str:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_trace(path)
    sentence = str(caught.value)
    assert sentence.startswith("Trace file bad.safetensors: ") and not sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_every_truncation_is_refused(tmp_path, good):
    header = 8 + int.from_bytes(good[:8], "little")
    claims = json.loads(good[8:header])
    ends = [header + claim["data_offsets"][1] for name, claim in claims.items() if name != "__metadata__"]
    cuts = {*range(12), *range(12, header, 97), header - 1, header, *ends, *(end - 1 for end in ends)} - {len(good)}
    for cut in sorted(cuts):
        sentence = refused(tmp_path, good[:cut])
        assert "safetensors file" in sentence if cut < 8 else "truncated" in sentence


def edit(good: bytes, change) -> bytes:
    """The good file with its header changed by `change(claims)`."""
    end = 8 + int.from_bytes(good[:8], "little")
    claims = json.loads(good[8:end])
    text = json.dumps(change(claims) or claims).encode()
    return len(text).to_bytes(8, "little") + text + good[end:]


def set_field(name, field, value):
    def change(claims):
        claims[name][field] = value

    return change


def set_json(name, field, value):
    def change(claims):
        content = json.loads(claims["__metadata__"][name])
        content[field] = value
        claims["__metadata__"][name] = json.dumps(content)

    return change


def drop(name):
    def change(claims):
        del claims["__metadata__"][name]

    return change


def rename(old, new):
    def change(claims):
        claims[new] = claims.pop(old)

    return change


HEADER_FAULTS = {
    "dtype unknown": (set_field("phase", "dtype", "U4"), "Tensor 'phase': dtype 'U4' is not one of"),
    "dtype no text": (set_field("phase", "dtype", 8), "dtype 8 is not one of"),
    "terabytes": (set_field("phase", "shape", [10**15]), "takes 1000000000000000 bytes but data_offsets span 15"),
    "overflow": (set_field("phase", "shape", [2**62, 2**62, 16]), "but data_offsets span 15"),
    "terabytes in both": (
        lambda claims: claims["phase"].update(shape=[10**15], data_offsets=[0, 10**15]),
        "starts at data byte",
    ),
    "negative": (set_field("phase", "shape", [-1, -15]), "shape must be a list"),
    "shape no list": (set_field("phase", "shape", "15"), "shape must be a list"),
    "many dimensions": (set_field("phase", "shape", [1] * 99), "at most 8 sizes"),
    "offsets": (set_field("phase", "data_offsets", [15, 0]), "data_offsets must be two byte positions"),
    "offsets no numbers": (set_field("phase", "data_offsets", [0.0, 15.0]), "data_offsets must be two byte positions"),
    "gap": (lambda claims: claims.pop("token_ids") and None, "without gap or overlap"),
    "fields": (set_field("phase", "more", 1), "exactly 'dtype', 'shape' and 'data_offsets'"),
    "no object": (lambda claims: {**claims, "phase": 3}, "exactly 'dtype'"),
    "a list": (lambda claims: [1], "not a safetensors file"),
    "metadata": (lambda claims: {**claims, "__metadata__": {"a": 1}}, "values are all strings"),
    "no version": (drop("schema_version"), "no 'schema_version', so this is not a trace"),
    "new version": (set_field("__metadata__", "schema_version", "3"), "schema_version='3' is unknown"),
    "no geometry": (drop("geometry"), "no 'geometry'"),
    "no flags": (drop("flags"), "no 'flags'"),
    "geometry no JSON": (set_field("__metadata__", "geometry", "{"), "'geometry' is not valid JSON"),
    "geometry a list": (set_field("__metadata__", "geometry", "[]"), "must be a JSON object, not list"),
    "deep": (set_field("__metadata__", "geometry", "[" * 10**5), "'geometry' is not valid JSON"),
    "unknown size": (set_json("geometry", "layers", 3), "unknown field 'layers'"),
    "size missing": (set_field("__metadata__", "geometry", '{"model": "m"}'), "lacks the field 'num_layers'"),
    "size no number": (set_json("geometry", "num_experts", "8"), "geometry.num_experts='8'"),
    "size a list": (set_json("geometry", "num_layers", [3]), "geometry.num_layers"),
    "flag": (set_json("flags", "ranked", 1), "'flags' has ranked=1: must be a bool"),
    "function": (set_json("flags", "score_function", 1), "score_function=1: must be a str"),
    "labels": (set_field("__metadata__", "request_labels", '["a", 1, "b"]'), "list of strings"),
    "label count": (set_field("__metadata__", "request_labels", '["a"]'), "1 entries for 3 requests"),
    "unknown tensor": (rename("token_ids", "tokens"), "Tensor 'tokens' is unknown"),
    "missing tensor": (rename("phase", "selection_scores"), "Tensor 'phase' is missing"),
    "half a table": (rename("lookahead_after.ids", "selection_scores.ids"), "is missing beside"),
    "both tables": (rename("token_ids", "router_logits"), "Both a dense tensor 'router_logits' and a truncated"),
}


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_each_fault_of_the_header_has_its_sentence(tmp_path, good, fault):
    change, sentence = HEADER_FAULTS[fault]
    assert sentence in refused(tmp_path, edit(good, change))


RAW_FAULTS = {
    "empty": (b"", "has 0 bytes"),
    "text": (b"no trace at all, just words", "not a safetensors file"),
    "zip": (b"PK\x03\x04" + b"\0" * 60, "not a safetensors file"),
    "huge header": ((10**15).to_bytes(8, "little") + b"{}", "claims a header of 1000000000000000 bytes"),
    "header beyond the end": ((999).to_bytes(8, "little") + b"{}", "truncated: the header takes 1007 bytes"),
    "no JSON": ((4).to_bytes(8, "little") + b"{]]]", "not valid JSON"),
    "no text": ((4).to_bytes(8, "little") + b"{\xff\xfe}", "not valid JSON"),
    "twice": ((20).to_bytes(8, "little") + b'{"a":1,"a":2}       ', "the name 'a' twice"),
    "deep": ((10**5 + 5).to_bytes(8, "little") + b'{"a":' + b"[" * 10**5, "not valid JSON"),
    "long number": ((9006).to_bytes(8, "little") + b'{"a":' + b"9" * 9000 + b"}", "not valid JSON"),
}


@pytest.mark.parametrize("fault", RAW_FAULTS)
def test_what_is_no_safetensors_file_is_said_to_be_none(tmp_path, fault):
    content, sentence = RAW_FAULTS[fault]
    assert sentence in refused(tmp_path, content)


def test_bytes_after_the_last_tensor_are_refused(tmp_path, good):
    assert "has 3 bytes after its last tensor" in refused(tmp_path, good + b"abc")


def test_random_damage_is_refused_or_harmless_but_never_crashes(tmp_path, good):
    rng = np.random.default_rng(0)
    path = tmp_path / "t"
    for _ in range(300):
        content = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 4)):
            content[at] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            read_trace(path)
        except UserError as error:
            assert str(error).startswith("Trace file t: ")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_trace(tmp_path / "none")
    with pytest.raises(UserError, match="is a folder"):
        read_trace(tmp_path)


def test_misaligned_tensors_of_other_writers_are_read(tmp_path):
    path = tmp_path / "t"
    write_trace(path, recorded_trace())
    path.write_bytes(edit(path.read_bytes(), lambda claims: claims["__metadata__"].update(pad="x")))
    assert read_trace(path).request_offsets.flags.aligned
