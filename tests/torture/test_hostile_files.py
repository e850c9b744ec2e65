"""Files that once broke a reader: each is refused in one sentence now."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest

from tests.support.importing import imported, refused
from tests.support.random_traces import recorded_trace
from tests.support.small_predictors import KINDS, request_trace, untrained
from traces.demo.cache import training_summary
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.header import MAX_HEADER_BYTES
from traces.importers._sources import npz_array
from traces.recording.prompts import read_prompts
from traces.text import MOST_CHARACTERS


def edited(path, change):
    """The file with its header changed by `change(header)`."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


@pytest.fixture
def trace_path(tmp_path):
    path = tmp_path / "t.safetensors"
    write_trace(path, recorded_trace(0))
    return path


def test_a_trace_whose_content_is_not_what_its_hash_says_is_refused(trace_path):
    data = bytearray(trace_path.read_bytes())
    data[-1] ^= 1  # still a valid weight, id or phase, whichever is last
    trace_path.write_bytes(data)
    with pytest.raises(UserError, match=r"t\.safetensors"):
        read_trace(trace_path)


def test_a_trace_without_a_hash_is_read_and_given_one(trace_path):
    before = read_trace(trace_path).content_hash
    edited(trace_path, lambda header: header["__metadata__"].pop("content_hash"))
    assert read_trace(trace_path).content_hash == before


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', '{"a": [1, {"b": NaN}]}'])
def test_metadata_with_numbers_that_results_could_not_carry_on_is_refused(trace_path, text):
    edited(trace_path, lambda header: header["__metadata__"].update(provenance=text))
    with pytest.raises(UserError, match="Metadata 'provenance' is not valid JSON"):
        read_trace(trace_path)


def test_metadata_nested_deeper_than_a_writer_of_json_goes_is_refused(trace_path):
    edited(trace_path, lambda header: header["__metadata__"].update(provenance='{"a":' + "[" * 200 + "]" * 200 + "}"))
    with pytest.raises(UserError, match="nested deeper than 64 levels"):
        read_trace(trace_path)


def test_a_header_that_would_take_gigabytes_once_parsed_is_refused_before(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{" + b"[],".ljust(64))
    with pytest.raises(UserError, match="a header starts with"):
        read_trace(path)


def test_a_trace_with_more_metadata_than_can_be_read_is_not_written(tmp_path):
    from dataclasses import replace

    with pytest.raises(UserError, match="The metadata takes"):
        write_trace(tmp_path / "t", replace(recorded_trace(0), provenance={"notes": ["x" * MAX_HEADER_BYTES]}))
    assert not (tmp_path / "t").exists()


def test_quoted_values_neither_break_the_line_nor_steer_the_terminal_nor_fill_the_screen():
    text = str(UserError("trace\n\nof \x1b[31mred\x00 \ud800 " + "x" * 100_000 + " is allowed."))
    assert text.isprintable() and len(text) < 2 * MOST_CHARACTERS
    assert text.startswith("trace of \\x1b[31mred\\x00 \\ud800 xxx") and text.endswith("x is allowed.")


def npy(shape, dtype="<i8", version=b"\x01\x00"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


def zipped(path, members, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_bomb_is_refused_before_it_unpacks(tmp_path):
    path = zipped(tmp_path / "bomb.npz", {"a.npy": npy("(12500000,)") + bytes(100_000_000)})
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UserError, match=r"into 100000[0-9]{3}; a ratio of up to 100 is read"):
        npz_array(path, "a")


def test_what_packs_well_but_is_small_is_read(tmp_path):
    path = zipped(tmp_path / "zeros.npz", {"a.npy": npy("(1000,)") + bytes(8000)})
    assert npz_array(path, "a").tolist() == [0] * 1000


@pytest.mark.parametrize(
    "content",
    [
        npy("(" * 300 + "1"),  # the header ends in the middle of a bracket
        npy("(1,)", "|O") + bytes(8),  # pickled objects
        npy("(-1, -1)") + bytes(8),
        npy("(1L,) {{") + bytes(8),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_spoiled_arrays_are_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    refused("a.npy", "routed_experts", tmp_path / "a.npy", "--num-experts", "8")
    zipped(tmp_path / "a.npz", {"a.npy": content})
    refused("'a' of a.npz", "routed_experts", tmp_path / "a.npz", "--num-experts", "8")


def test_an_archive_of_an_unknown_version_is_refused(tmp_path):
    path = zipped(tmp_path / "a.npz", {"a.npy": npy("(1,)") + bytes(8)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 255  # needs version 25.5 to extract
    path.write_bytes(data)
    refused("a.npz is not a whole .npz file", "routed_experts", path, "--num-experts", "8")


def test_names_of_thousands_of_digits_are_only_names(tmp_path):
    out = io.BytesIO()
    np.save(out, np.array([[[0, 1]]], np.int32))
    path = zipped(tmp_path / "a.npz", {f"{'1' * 6000}.npy": out.getvalue(), "../2.npy": out.getvalue()})
    assert imported("routed_experts", path, "--num-experts", "8").num_requests == 2
    assert not (tmp_path.parent / "2.npy").exists()


def test_lines_that_are_no_csv_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('Layer ID,Batch Number,Token,Activated Expert IDs\n1,0,"' + "x" * 200_000 + '","[1]"\n')
    refused("line 2 is no line of a CSV file", "moe_beyond", path)


def test_weights_beyond_any_float_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    record = {"request": 0, "token": 0, "layer": 0, "experts": [1, 2], "weights": [10**400, 1]}
    path.write_text(json.dumps(record) + "\n")
    refused("must be a finite number", "jsonl", path, "--num-experts", "8")


def test_a_few_lines_cannot_ask_for_gigabytes(tmp_path):
    lines = ["# model=m n_layer=4096 n_expert=1024 n_expert_used=1024"]
    lines += [f"# layer={layer} expert_bytes=1 dense_bytes=1" for layer in range(4096)]
    lines += ["turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"]
    lines += [f"0,1,{step},0,0,0,0.5,hit,1" for step in range(50)]
    path = tmp_path / "a.route.csv"
    path.write_text("\n".join(lines))
    refused("the lines before hold hardly any of them", "big_moe_on_edge", path)


@pytest.mark.parametrize("line", ['{"prompt": "\\ud800"}', '{"prompt": "a", "label": "\\udfff"}', "[" * 100_000])
def test_prompts_that_no_tokenizer_can_read_are_refused(tmp_path, line):
    path = tmp_path / "p.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=r"p\.jsonl, line 1"):
        read_prompts(str(path), None, 0, 8)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"corpus_sha256": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_note_of_the_demo_model_says_what_to_do(tmp_path, content):
    (tmp_path / "training.json").write_bytes(content)
    with pytest.raises(UserError, match="delete its folder to train the model again"):
        training_summary(tmp_path)


@pytest.mark.parametrize(
    "content", ["a: [", "a: !!python/object:os.system {}", "a: *nowhere", "\x00", "a: ${", "&a [*a]", "sources: abc"]
)
def test_yaml_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch, content):
    import sim.assembly.catalogue
    import sim.machine.hardware
    import sim.machine.model

    (tmp_path / "eviction").mkdir()
    for name in ("a.yaml", "eviction/a.yaml"):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(sim.machine.hardware, "HARDWARE_FOLDER", tmp_path)
    monkeypatch.setattr(sim.machine.model, "MODEL_FOLDER", tmp_path)
    monkeypatch.setattr(sim.assembly.catalogue, "POLICY_FOLDER", tmp_path)
    sim.machine.model._dimension_files.cache_clear()
    try:
        with pytest.raises(UserError):
            sim.machine.hardware.load_hardware("a")
        with pytest.raises(UserError):
            sim.machine.model.load_dimensions("a")
        with pytest.raises(UserError):
            sim.assembly.catalogue.load_rule("eviction", "a")
    finally:
        sim.machine.model._dimension_files.cache_clear()


def test_a_predictor_whose_weights_changed_is_refused(tmp_path):
    from sim.predictors.checkpoint import read_checkpoint

    path = untrained(request_trace(), KINDS["tokens"], tmp_path / "p.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="it was changed after it was written"):
        read_checkpoint(path)


def test_a_predictor_that_forecasts_no_numbers_is_refused(tmp_path):
    from policies.prediction.moe_beyond import MoeBeyond
    from sim.predictors.checkpoint import read_checkpoint, write_checkpoint
    from sim.predictors.forecast import make_forecaster

    trace = request_trace()
    path = untrained(trace, KINDS["tokens"], tmp_path / "p.safetensors")
    checkpoint = read_checkpoint(path)
    checkpoint.weights["out_bias"][:] = np.nan
    write_checkpoint(path, checkpoint)
    forecaster = make_forecaster(MoeBeyond(checkpoint=str(path)), trace.select_requests(2))
    with pytest.raises(UserError, match="forecasts are no numbers"):
        forecaster.read(np.arange(3))


@pytest.mark.parametrize("place", ["training", "settings", "shape"])
def test_a_predictor_whose_record_is_of_another_kind_is_refused(tmp_path, place):
    from sim.predictors.checkpoint import ENTRY, read_checkpoint

    path = untrained(request_trace(), KINDS["tokens"], tmp_path / "p.safetensors")

    def change(header):
        record = json.loads(header["__metadata__"][ENTRY])
        header["__metadata__"][ENTRY] = json.dumps(record | {place: 3})

    with pytest.raises(UserError, match="cannot be read as a predictor"):
        read_checkpoint(edited(path, change))
