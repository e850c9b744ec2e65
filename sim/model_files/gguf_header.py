"""Sizes of a model from the header of a GGUF file, for `model=FILE.gguf`: bytes of every tensor as it is quantised.

Only the header is read, within a budget; `gguf` of llama.cpp's authors maps the tensors too and believes every length
that a file claims. Of a split file (`NAME-00001-of-00005.gguf`) all parts beside each other count.
Source: the format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; block sizes of types as in ggml-common.h.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sim.model_files.layers import SHORT_WINDOW
from traces.errors import UserError
from traces.special_files import require_regular

MOST_HEADER_BYTES, MOST_ENTRIES, MOST_LAYERS, MOST_PARTS = 1 << 26, 1 << 20, 65535, 999
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""Type of a tensor -> (numbers of a block, its bytes)."""
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"ffn_(gate|up|down|gate_up)_exps\b.*")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's name, how many numbers it holds and its bytes."""

    name: str
    numbers: int
    stored: int


class Header:
    """What one file says: ``fields`` by name (texts, numbers, lists of numbers) and ``tensors``."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, MOST_HEADER_BYTES
        if self._take(4) != b"GGUF":
            raise UserError("is no GGUF file: must begin with GGUF")
        version, tensors, fields = self._unpack("IQQ")
        if version not in (2, 3):
            raise UserError(f"is of GGUF version {version}: must be 2 or 3, with the lowest byte first")
        if max(tensors, fields) > MOST_ENTRIES:
            raise UserError(f"claims {max(tensors, fields)} entries: must be at most {MOST_ENTRIES}")
        self.fields = {self._text(): self._value(self._unpack("I")[0]) for _ in range(fields)}
        self.tensors = [self._tensor() for _ in range(tensors)]

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise UserError(f"has a header of more than {MOST_HEADER_BYTES} bytes")
        self.left -= size
        data = self.file.read(size)
        if len(data) < size:
            raise UserError("ends within its header")
        return data

    def _unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))

    def _text(self) -> str:
        return self._take(self._unpack("Q")[0]).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind in SCALARS:
            return self._unpack(SCALARS[kind])[0]
        if kind != ARRAY:
            raise UserError(f"holds a value of the unknown type {kind}")
        inner, count = self._unpack("IQ")
        if inner in SCALARS:
            size = struct.calcsize(f"<{SCALARS[inner]}")
            data = self._take(size * count)
            return list(struct.unpack(f"<{count}{SCALARS[inner]}", data)) if count <= MOST_LAYERS else None
        if inner != STRING:
            raise UserError("holds a list of lists")
        for _ in range(count):  # words of the vocabulary are passed by
            self._take(self._unpack("Q")[0])
        return None

    def _tensor(self) -> Tensor:
        name, (dimensions,) = self._text(), self._unpack("I")
        if dimensions > 8:
            raise UserError(f"tensor {name} has {dimensions} dimensions: must be at most 8")
        numbers = 1
        for extent in self._unpack(f"{dimensions}Q"):
            numbers *= extent
        kind, _ = self._unpack("IQ")
        if kind not in BLOCKS:
            raise UserError(f"tensor {name} is of the unknown type {kind}")
        block, size = BLOCKS[kind]
        if numbers % block or numbers > 2**45:
            raise UserError(
                f"tensor {name} has {numbers} numbers: must be whole blocks of {block}, at most 2^45 numbers"
            )
        return Tensor(name, numbers, numbers // block * size)


def read_gguf(path: Path) -> dict[str, Any]:
    """Fields of `sim.machine.model.Dimensions` of the model in a file.

    Raises: UserError naming the file and what it lacks.
    """
    headers = [_header(part, path) for part in _parts(path)]
    fields = {name: value for header in reversed(headers) for name, value in header.fields.items()}
    tensors = [tensor for header in headers for tensor in header.tensors]
    try:
        return {"name": _PART.sub(r"\1", path.name).removesuffix(".gguf")} | _dimensions(fields, tensors)
    except UserError as error:
        raise UserError(f"model={path}: the file {error}") from error


def _parts(path: Path) -> list[Path]:
    found = _PART.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found[3])
    if not 1 <= count <= MOST_PARTS:
        raise UserError(f"model={path}: a split file must have from 1 to {MOST_PARTS} parts")
    return [path.with_name(f"{found[1]}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def _header(part: Path, path: Path) -> Header:
    if not part.is_file():
        raise UserError(
            f"model={path}: {part.name} does not exist: all parts of a split file must lie beside each other"
        )
    require_regular(part)
    try:
        with part.open("rb") as file:
            return Header(file)
    except OSError as error:
        raise UserError(f"{part} cannot be read: {error.strerror or error}") from error
    except UserError as error:
        raise UserError(f"model={path}: {part.name} {error}") from error


def _dimensions(fields: dict[str, Any], tensors: list[Tensor]) -> dict[str, Any]:
    family = fields.get("general.architecture")

    def number(name: str, *others: str) -> int:
        for word in (name, *others):
            value = fields.get(f"{family}.{word}")
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
                return value
        raise UserError(f"does not state {family}.{name}")

    blocks: dict[int, dict[str, Tensor]] = defaultdict(dict)
    rest: dict[str, Tensor] = {}
    for tensor in tensors:
        place = _BLOCK.fullmatch(tensor.name)
        if place is None:
            rest[tensor.name] = tensor
        else:
            blocks[int(place[1])][place[2]] = tensor
    routed = {at: named for at, named in sorted(blocks.items()) if any(map(_EXPERTS.fullmatch, named))}
    if not routed:
        raise UserError("holds no tensors of routed experts (blk.N.ffn_*_exps)")
    experts = number("expert_count")
    dense = [named for at, named in sorted(blocks.items()) if at not in routed]
    groups = [_groups(named) for named in routed.values()]
    expert = [tensor for group in groups for tensor in group["experts"]]
    for tensor in expert:
        if tensor.stored < experts:
            raise UserError(f"states {tensor.stored} bytes of {tensor.name}: must be at least {experts}, 1 an expert")
    tied = "output.weight" not in rest
    once = [tensor for name, tensor in rest.items() if name != "token_embd.weight" or tied]
    once += [tensor for named in dense for tensor in named.values()]
    others = once + [tensor for group in groups for tensor in (*group["shared"], *group["attention"])]
    hidden, heads = number("embedding_length"), fields.get(f"{family}.attention.head_count")
    return {
        "source": f"the header of its GGUF file; {_kind(fields)}",
        "hidden_size": hidden,
        "num_layers": len(routed),
        "num_experts": experts,
        "top_k": number("expert_used_count"),
        "expert_ffn": number("expert_feed_forward_length", "feed_forward_length"),
        "dense_layers": len(dense),
        "dense_ffn": number("feed_forward_length") if dense else 0,
        "num_heads": _most(heads) or 1,
        "num_kv_heads": _most(fields.get(f"{family}.attention.head_count_kv")) or _most(heads) or 1,
        "head_dim": _most(fields.get(f"{family}.attention.key_length")) or max(1, hidden // (_most(heads) or 1)),
        "vocab_size": max(1, rest["token_embd.weight"].numbers // hidden) if "token_embd.weight" in rest else 1,
        "weight_bits": _bits(expert),
        "other_bits": _bits(others),
        "tied": tied,
        "stored_expert_bytes": [_stored(group["experts"]) // experts for group in groups],
        "stored_attention_bytes": [_stored(group["attention"]) for group in groups],
        "stored_shared_bytes": [_stored(group["shared"]) for group in groups],
        "stored_other_bytes": _stored(once),
        "stored_kv_bytes": round(_kv_numbers(fields, family, max(blocks) + 1) * 2 / len(routed)),
    }


def _groups(named: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """The tensors of a block: of routed experts, of shared ones, and the rest, which every token reads."""
    groups: dict[str, list[Tensor]] = {"experts": [], "shared": [], "attention": []}
    for name, tensor in named.items():
        kind = "experts" if _EXPERTS.fullmatch(name) else "shared" if "_shexp" in name else "attention"
        groups[kind].append(tensor)
    return groups


def _stored(tensors: list[Tensor]) -> int:
    return sum(tensor.stored for tensor in tensors)


def _bits(tensors: list[Tensor]) -> float:
    """Mean stored bits of a number."""
    numbers = sum(tensor.numbers for tensor in tensors)
    return min(64.0, max(1.0, 8 * _stored(tensors) / numbers)) if numbers else 16.0


def _most(value: Any) -> int:
    """The largest of a number or of one number per layer; 0 where there is none."""
    values = value if isinstance(value, list) else [value]
    return max((entry for entry in values if isinstance(entry, int) and 0 <= entry < 2**31), default=0)


def _kv_numbers(fields: dict[str, Any], family: Any, layers: int) -> int:
    """Numbers of K and V of one token in all layers; layers without heads of K and V cache none."""
    latent = _most(fields.get(f"{family}.attention.kv_lora_rank"))
    if latent:
        return layers * (latent + _most(fields.get(f"{family}.rope.dimension_count")))
    heads = fields.get(f"{family}.attention.head_count_kv", fields.get(f"{family}.attention.head_count"))
    each = heads if isinstance(heads, list) else [heads] * layers
    width = _most(fields.get(f"{family}.attention.key_length")) + _most(fields.get(f"{family}.attention.value_length"))
    if not width:
        all_heads = _most(fields.get(f"{family}.attention.head_count")) or 1
        width = 2 * (_most(fields.get(f"{family}.embedding_length")) // all_heads)
    interval = _most(fields.get(f"{family}.full_attention_interval"))  # the other layers are linear attention
    grow = _growing(fields, family, len(each))
    return sum(
        _most(count) * width for at, count in enumerate(each) if grow[at] and (not interval or (at + 1) % interval == 0)
    )


def _growing(fields: dict[str, Any], family: Any, layers: int) -> list[bool]:
    """Which layers cache what grows with the context: all, but those of a short window (gpt-oss: every second)."""
    pattern = fields.get(f"{family}.attention.sliding_window_pattern", WINDOWS.get(family))
    if not 0 < _most(fields.get(f"{family}.attention.sliding_window")) <= SHORT_WINDOW or not pattern:
        return [True] * layers
    if isinstance(pattern, list):
        return [at >= len(pattern) or not pattern[at] for at in range(layers)]
    return [(at + 1) % max(1, _most(pattern)) == 0 for at in range(layers)]


WINDOWS = {"gpt-oss": 2}
"""Families whose files do not say which layers attend to all: every so many-th one (llama.cpp, src/llama-model.cpp)."""


def _kind(fields: dict[str, Any]) -> str:
    return f"general.file_type {fields.get('general.file_type', 'not stated')}, K and V of 16 bits"
