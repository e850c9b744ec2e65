"""A small GGUF file: nothing but a header, written by hand."""

import struct

F32, Q8_0, Q4_K, Q6_K = 0, 8, 12, 14


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def field(name, value):
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return text(name) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, list):
        return text(name) + struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
    return text(name) + struct.pack("<II", 4, value)


def gguf(path, fields, tensors):
    """A file of nothing but a header; tensors: name -> (dimensions, type)."""
    body = b"".join(field(*one) for one in fields.items())
    for name, (dimensions, kind) in tensors.items():
        body += text(name) + struct.pack("<I", len(dimensions)) + struct.pack(f"<{len(dimensions)}Q", *dimensions)
        body += struct.pack("<IQ", kind, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + body)
    return path


FIELDS = {
    "general.architecture": "qwen3moe", "general.file_type": 15, "qwen3moe.block_count": 3,
    "qwen3moe.embedding_length": 256, "qwen3moe.expert_count": 4, "qwen3moe.expert_used_count": 2,
    "qwen3moe.expert_feed_forward_length": 512, "qwen3moe.feed_forward_length": 1024,
    "qwen3moe.attention.head_count": 8, "qwen3moe.attention.head_count_kv": 2, "qwen3moe.attention.key_length": 32,
    "qwen3moe.attention.value_length": 32, "tokenizer.ggml.tokens": ["a", "bc"],
}  # fmt: skip
TENSORS = {
    "token_embd.weight": ((256, 1000), Q4_K), "output.weight": ((256, 1000), Q6_K), "output_norm.weight": ((256,), F32),
    "blk.0.ffn_up.weight": ((256, 1024), Q4_K), "blk.0.attn_q.weight": ((256, 256), Q8_0),
    **{f"blk.{at}.attn_q.weight": ((256, 256), Q8_0) for at in (1, 2)},
    **{f"blk.{at}.ffn_gate_exps.weight": ((256, 512, 4), Q4_K) for at in (1, 2)},
    "blk.1.ffn_down_exps.weight": ((512, 256, 4), Q6_K), "blk.2.ffn_down_exps.weight": ((512, 256, 4), Q4_K),
    "blk.2.ffn_up_shexp.weight": ((256, 512), Q4_K),
}  # fmt: skip
