"""`model=FILE.gguf`: sizes from the header, worked out by hand, and what a broken or hostile header ends in."""

import struct

import pytest

from sim.assembly.compose import compose_run
from sim.machine.model import dimensions_from_config, geometry
from sim.model_files.gguf_header import read_gguf
from tests.sim.model_files.small_gguf import FIELDS, TENSORS, gguf, text
from traces.errors import UserError

Q4_EXPERT, Q6_EXPERT = 256 * 512 // 256 * 144, 256 * 512 // 256 * 210


def test_bytes_of_every_layer_are_those_of_its_tensors(tmp_path):
    found = geometry(dimensions_from_config(read_gguf(gguf(tmp_path / "tiny-Q4_K_M.gguf", FIELDS, TENSORS))))
    assert (found.model, found.num_layers, found.num_experts, found.top_k) == ("tiny-Q4_K_M", 2, 4, 2)
    assert found.expert_bytes == (Q4_EXPERT + Q6_EXPERT, 2 * Q4_EXPERT)
    assert found.attention_bytes == (256 * 256 // 32 * 34,) * 2
    assert found.shared_bytes == (0, Q4_EXPERT)
    dense = 256 * 1024 // 256 * 144 + 256 * 256 // 32 * 34
    assert found.other_bytes == 256_000 // 256 * 210 + 256 * 4 + dense
    assert found.kv_bytes_per_token == 3 * 2 * 64 * 2 // 2  # three layers cache, for two that route


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        ({"qwen3moe.attention.head_count_kv": [0, 2, 0]}, 2 * 64),
        ({"qwen3moe.full_attention_interval": 3}, 2 * 64),
        ({"qwen3moe.attention.sliding_window": 128, "qwen3moe.attention.sliding_window_pattern": 3}, 2 * 64),
        ({"qwen3moe.attention.sliding_window": 4096, "qwen3moe.attention.sliding_window_pattern": 3}, 3 * 2 * 64),
        ({"qwen3moe.attention.kv_lora_rank": 100, "qwen3moe.rope.dimension_count": 28}, 3 * 128),
    ],
    ids=["heads by layer", "linear attention between", "short windows", "long windows", "latent"],
)
def test_only_layers_with_a_cache_count(change, numbers, tmp_path):
    found = read_gguf(gguf(tmp_path / "t.gguf", FIELDS | change, TENSORS))
    assert found["stored_kv_bytes"] == numbers * 2 / 2


def test_parts_of_a_split_file_count_together(tmp_path):
    names = list(TENSORS)
    gguf(tmp_path / "big-00001-of-00002.gguf", FIELDS, {name: TENSORS[name] for name in names[:5]})
    gguf(tmp_path / "big-00002-of-00002.gguf", {"split.no": 1}, {name: TENSORS[name] for name in names[5:]})
    whole = read_gguf(gguf(tmp_path / "big.gguf", FIELDS, TENSORS))
    assert read_gguf(tmp_path / "big-00001-of-00002.gguf") == whole
    (tmp_path / "big-00002-of-00002.gguf").unlink()
    with pytest.raises(UserError, match=r"big-00002-of-00002\.gguf does not exist: all parts"):
        read_gguf(tmp_path / "big-00001-of-00002.gguf")


def test_a_run_takes_it(tmp_path):
    path = gguf(tmp_path / "tiny.gguf", FIELDS, TENSORS)
    config = compose_run(f"model={path}")
    assert list(config.model.stored_expert_bytes) == [Q4_EXPERT + Q6_EXPERT, 2 * Q4_EXPERT]


def test_experts_of_no_bytes_are_refused(tmp_path):
    """Found by torture: a dimension that was zeroed out."""
    empty = TENSORS | {"blk.1.ffn_gate_exps.weight": ((256, 0, 4), 12)}
    with pytest.raises(UserError, match=r"0 bytes of blk\.1\.ffn_gate_exps\.weight: must be at least 4"):
        read_gguf(gguf(tmp_path / "t.gguf", FIELDS, empty))


def head(version, tensors, fields):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "ends within its header"),
        (b"GGML" + bytes(40), "is no GGUF file"),
        (head(1, 0, 0), "is of GGUF version 1: must be 2 or 3"),
        (head(3, 2**60, 0), "claims 1152921504606846976 entries"),
        (head(3, 0, 1) + struct.pack("<Q", 2**62), "has a header of more than"),
        (head(3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1), "holds a list of lists"),
        (head(3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**62), "ends within its header"),
        (head(3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 4, 2**61), "has a header of more than"),
        (head(3, 0, 1) + text("a") + struct.pack("<I", 77), "holds a value of the unknown type 77"),
        (head(3, 1, 0) + text("t") + struct.pack("<I", 2**31), "has 2147483648 dimensions"),
        (head(3, 0, 0), "holds no tensors of routed experts"),
    ],
)
def test_what_is_no_such_header_is_refused(content, sentence, tmp_path):
    (tmp_path / "t.gguf").write_bytes(content)
    with pytest.raises(UserError, match=f"model=.*{sentence}"):
        read_gguf(tmp_path / "t.gguf")
