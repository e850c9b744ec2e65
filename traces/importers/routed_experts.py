"""Routed experts returned by vLLM or SGLang: integer arrays, or the servers' JSON answers.

SOURCE is an .npy file (one request), an .npz file (an array per request), a .json or .jsonl file of answers (base64
int32 or lists), or a folder of .npy or of .json files; requests come in the natural order of their names. Arrays are
[tokens, layers, top_k]; base64 needs --num-layers and --top-k, or one of them where the answer counts its tokens. Rows
of -1 at the beginning, and tokens before routed_experts_start_len, are a cached prefix. An answer that goes on where
the one before ended, or begins with all its rows, is the next turn of one dialogue and not prefilled twice. Layers
without experts, which vLLM returns as zeros, are left out. The arrays do not say how many experts there are or whether
ids are best first.
Source: https://github.com/vllm-project/vllm/pull/28284 (--enable-return-routed-experts) and
https://docs.sglang.io/docs/basic_usage/openai_api_completions.md (return_routed_experts)
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL, Trace
from traces.importers._answers import read_answers
from traces.importers._assembly import Rows, finish
from traces.importers._sources import (
    add_model_options,
    check_num_experts,
    integers_option,
    npy_array,
    npz_array,
    npz_names,
    sha256_of,
)
from traces.importers._turns import SAME_SHARE
from traces.importers._values import MISSING

EXAMPLE = "routed_experts request.npy out.safetensors --num-experts 128 --prompt-len 57"
_CHUNK_ROWS = 1 << 16
_SUFFIXES = (".npy", ".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows [n, L, K] of one answer: the tokens from `start` on, and how many its prompt has, where it says so."""

    name: str
    ids: NDArray[Any]
    start: int = 0
    prompt_tokens: int | None = None

    @property
    def end(self) -> int:
        """The token behind its last."""
        return self.start + len(self.ids)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the arrays do not say."""
    add_model_options(parser)
    parser.add_argument(
        "--prompt-len",
        type=integers_option,
        metavar="N[,N...]",
        help="tokens of the prompt, one for all or per request; else as answers say, or all is decode",
    )
    parser.add_argument(
        "--decode-only", action="store_true", help="no row is of the prompt, whose length is --prompt-len"
    )
    parser.add_argument(
        "--num-layers", type=int, metavar="L", help="layers of ids in base64, those without experts too"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="experts per token of ids in base64")
    parser.add_argument(
        "--expert-bytes",
        type=integers_option,
        metavar="N[,N...]",
        help="bytes of one expert, one for all or per MoE layer",
    )
    parser.add_argument(
        "--dense-layers",
        type=integers_option,
        default=(),
        metavar="N[,N...]",
        help="layers of the array without experts",
    )
    parser.add_argument(
        "--turns",
        choices=("auto", "all", "none"),
        default="auto",
        help="which answers go on one dialogue (default: those that begin with the one before)",
    )
    parser.add_argument("--ranked", action="store_true", help="the ids of a row are best first")


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in `source`, one request per array or dialogue."""
    check_num_experts(options.num_experts)
    for name, value in (("--num-layers", options.num_layers), ("--top-k", options.top_k)):
        if value is not None and not 1 <= value <= 65535:
            raise UserError(f"{name}={value}: must be from 1 to 65535")
    parts = _parts(source, options)
    shape = parts[0].ids.shape
    for part in parts:
        other = part.ids.shape
        if len(other) != 3 or other[1:] != shape[1:] or 0 in other:
            raise UserError(
                f"Array {part.name!r} has shape {other}: must be (tokens, layers, top_k), equal in all requests"
            )
    dense = options.dense_layers
    if len(set(dense)) != len(dense) or len(dense) >= shape[1] or max(dense, default=0) >= shape[1]:
        raise UserError(f"--dense-layers={_text(dense)}: must be some of layers 0 to {shape[1] - 1}")
    notes: list[str] = []
    layers = _moe_layers(parts, dense, notes)
    dtype = np.int16 if options.num_experts < 2**15 else np.int32
    ids = np.empty((sum(len(part.ids) for part in parts), len(layers), shape[2]), dtype)
    begin = 0
    for part in parts:
        _copy(part, layers, options.num_experts, ids[begin:])
        begin += len(part.ids)
    unit, turn = _dialogues(parts, options.turns)
    lengths = [len(part.ids) for part in parts]
    position = np.concatenate([np.arange(part.start, part.end) for part in parts])
    rows = Rows(
        np.repeat(unit, lengths),
        np.repeat(turn, lengths),
        position,
        np.concatenate([_phase(part, options.prompt_len) for part in parts]),
        np.full(len(ids), MISSING),
        ids,
        None,
        None,
    )
    names = tuple(part.name for part, number in zip(parts, turn.tolist(), strict=True) if number == 0)
    provenance: dict[str, Any] = {
        "imported_from": "routed_experts",
        "sha256": {path.name: sha256_of(path) for path in _files(source)},
        "notes": notes,
        "layer_numbers": layers,
    }
    return finish(rows, names, options.num_experts, options, provenance, False)


def _text(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorting key that puts request_2 before request_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = [path for path in source.iterdir() if path.suffix in _SUFFIXES]
    return sorted(found, key=lambda path: _natural(path.stem))


def _parts(source: Path, options: argparse.Namespace) -> list[_Part]:
    """All answers, in natural order."""
    if not source.exists():
        raise UserError(f"{source} does not exist: must be an .npy, .npz, .json or .jsonl file, or a folder of them")
    parts: list[_Part] = []
    for path in _files(source):
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        if suffix == ".npz":
            parts += [_Part(name, npz_array(path, name)) for name in sorted(npz_names(path), key=_natural)]
        elif suffix == ".npy":
            parts.append(_Part(path.stem, npy_array(path)))
        elif suffix in (".json", ".jsonl"):
            found = read_answers(path, options.num_layers, options.top_k)
            parts += [_Part(answer.name, answer.ids, answer.start, answer.prompt_tokens) for answer in found]
        else:
            raise UserError(f"{source.name} is neither an .npy, .npz, .json or .jsonl file nor a folder of them")
    if not parts:
        raise UserError(f"{source.name} holds no arrays")
    return parts


def _moe_layers(parts: Sequence[_Part], declared: tuple[int, ...], notes: list[str]) -> list[int]:
    """Layers with experts: not declared dense, and not of nothing but expert 0, or -1."""
    num_layers, top_k = parts[0].ids.shape[1:]
    used = np.zeros(num_layers, bool)
    for part in parts:
        for start in range(0, len(part.ids), _CHUNK_ROWS):
            chunk = part.ids[start : start + _CHUNK_ROWS]
            used |= ((chunk != MISSING) if top_k == 1 else (chunk > 0)).any(axis=(0, 2))
    inferred = [layer for layer in range(num_layers) if not used[layer] and layer not in declared]
    if len(inferred) + len(declared) == num_layers:
        raise UserError("no layer has experts: all ids are 0 or -1")
    if inferred:
        notes.append(f"Layers without experts (all ids are 0 or -1), left out: {', '.join(map(str, inferred))}.")
    if declared:
        notes.append(f"Layers without experts, as --dense-layers says: {', '.join(map(str, declared))}.")
    return [layer for layer in range(num_layers) if layer not in (*inferred, *declared)]


def _copy(part: _Part, layers: list[int], num_experts: int, out: NDArray[Any]) -> None:
    """Copy the MoE layers of one answer, checked, a chunk of tokens at a time."""
    if part.ids.dtype.kind not in "iu":
        raise UserError(f"Array {part.name!r} is of type {part.ids.dtype}: expert ids must be integers")
    for start in range(0, len(part.ids), _CHUNK_ROWS):
        chunk = part.ids[start : start + _CHUNK_ROWS, layers]
        wrong = (chunk >= num_experts) if chunk.dtype.kind == "u" else (chunk >= num_experts) | (chunk < MISSING)
        if wrong.any():
            row, layer, rank = (int(place) for place in np.argwhere(wrong)[0])
            raise UserError(
                f"Array {part.name!r} holds expert {chunk[row, layer, rank]} at index "
                f"{[start + row, layers[layer], rank]}: must be from 0 to {num_experts - 1}, or -1 for none"
            )
        out[start : start + len(chunk)] = chunk


def _phase(part: _Part, claim: tuple[int, ...] | None) -> NDArray[np.int64]:
    """The phase of each row, MISSING where the answer does not say where its prompt ends."""
    if part.prompt_tokens is None or claim is not None:
        return np.full(len(part.ids), MISSING)
    return np.where(np.arange(part.start, part.end) < part.prompt_tokens, PREFILL, DECODE)


def _dialogues(parts: Sequence[_Part], turns: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of the dialogue of each answer, and which turn of it it is."""
    units, numbers = [0], [0]
    for before, part in pairwise(parts):
        goes_on = turns == "all" or (turns == "auto" and _goes_on(before, part))
        units.append(units[-1] + (not goes_on))
        numbers.append(numbers[-1] + 1 if goes_on else 0)
    return np.array(units, np.int64), np.array(numbers, np.int64)


def _goes_on(before: _Part, part: _Part) -> bool:
    """Whether an answer begins where the one before ended, or with all of it once more, recomputed or as -1."""
    if part.start:
        return part.start == before.end
    if part.end <= before.end or before.start:
        return False
    old = part.ids[: before.end]
    told = (old != MISSING).any(axis=(1, 2))
    if not told.any():
        return bool((part.ids[before.end] != MISSING).any())
    same = (np.sort(old[told], -1) == np.sort(before.ids[told], -1)).all(-1)
    return bool(same.mean() >= SAME_SHARE)
