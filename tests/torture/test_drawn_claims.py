"""Whatever a trace's header claims, it is refused in one sentence or read as what it is."""

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.random_traces import recorded_trace
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.tensors import hash_content
from traces.format.validation import validate

NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.integers(-2, 9), st.booleans(), st.none())
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=8), st.sampled_from(["U8", "U16", "I32", "I64", "F16", "F32", "BF16"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
GEOMETRY = ("model", "num_layers", "num_experts", "top_k", "expert_bytes", "shared_bytes", "weight_bits", "hidden_size")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "t.safetensors"
    write_trace(path, recorded_trace(0, width=4))
    return path.read_bytes()


def read_with(good, path, change):
    """Read the good trace with its header changed, without the hash that would give the change away."""
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    del header["__metadata__"]["content_hash"]
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + good[8 + length :])
    try:
        trace = read_trace(path)
    except UserError as error:
        assert str(error).isprintable()
        return
    validate(trace)
    assert trace.content_hash == hash_content(trace)
    json.dumps(trace.provenance, allow_nan=False)


drawn = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@drawn
@given(data=st.data())
def test_any_claim_about_a_tensor(good, tmp_path, data):
    def change(header):
        name = data.draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "other"]))
        header[name][field] = data.draw(VALUES)

    read_with(good, tmp_path / "t.safetensors", change)


@drawn
@given(field=st.sampled_from(GEOMETRY), value=VALUES)
def test_any_geometry(good, tmp_path, field, value):
    def change(header):
        geometry = json.loads(header["__metadata__"]["geometry"])
        header["__metadata__"]["geometry"] = json.dumps(geometry | {field: value})

    read_with(good, tmp_path / "t.safetensors", change)


@drawn
@given(
    name=st.sampled_from(["flags", "provenance", "request_labels", "schema_version", "geometry", "content_hash"]),
    value=st.one_of(VALUES, VALUES.map(json.dumps)),
)
def test_any_metadata(good, tmp_path, name, value):
    read_with(good, tmp_path / "t.safetensors", lambda header: header["__metadata__"].update({name: value}))
