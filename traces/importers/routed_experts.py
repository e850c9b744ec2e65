"""Routed experts returned by vLLM or SGLang: integer arrays [tokens, layers, top_k], one per request.

SOURCE is an .npy file (one request), an .npz file (an array per request) or a folder of .npy files; requests come in
the natural order of their names. The arrays do not say how many experts there are, where the prompt ends, or whether
ids are best first; options do. Layers without experts, which vLLM returns as zeros, are named by --dense-layers.
Source: https://github.com/vllm-project/vllm/pull/28284 (--enable-return-routed-experts) and
https://docs.sglang.io/docs/basic_usage/openai_api_completions.md (return_routed_experts)
"""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL, Trace, id_dtype
from traces.importers._sources import (
    add_model_options,
    check_num_experts,
    expert_ids,
    geometry_of,
    integers_option,
    npy_array,
    npz_array,
    npz_names,
    sha256_of,
)

EXAMPLE = "routed_experts request.npy out.safetensors --num-experts 128 --prompt-len 57"
_CHUNK_ROWS = 1 << 16


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the arrays do not say."""
    add_model_options(parser)
    parser.add_argument(
        "--prompt-len",
        type=integers_option,
        help="tokens of the prompt, one for all or N,N,... per request; else all is decode",
    )
    parser.add_argument(
        "--expert-bytes", type=integers_option, help="bytes of one expert, one for all or N,N,... per MoE layer"
    )
    parser.add_argument(
        "--dense-layers", type=integers_option, default=(), help="layers of the array without experts: N,N,..."
    )
    parser.add_argument("--ranked", action="store_true", help="the ids of a row are best first")


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in `source`, one request per array."""
    check_num_experts(options.num_experts)
    arrays = _arrays(source)
    shapes = {name: load().shape for name, load in arrays.items()}
    shape = next(iter(shapes.values()))
    for name, other in shapes.items():
        if len(other) != 3 or other[1:] != shape[1:] or 0 in other:
            raise UserError(f"Array {name!r} has shape {other}: must be (tokens, layers, top_k), equal in all requests")
    layers = [layer for layer in range(shape[1]) if layer not in options.dense_layers]
    if not layers or len(layers) + len(options.dense_layers) != shape[1]:
        raise UserError(f"--dense-layers={_text(options.dense_layers)}: must be some of layers 0 to {shape[1] - 1}")
    offsets = np.cumsum([0, *(other[0] for other in shapes.values())])
    ids = np.empty((offsets[-1], len(layers), shape[2]), id_dtype(options.num_experts))
    for (name, load), start in zip(arrays.items(), offsets[:-1], strict=True):
        _copy(load(), layers, options.num_experts, name, ids[start:])
    prompt_len = _prompt_len(options.prompt_len, shapes)
    notes = [] if options.ranked else ["The order of ids within a row is not known to be best first."]
    if options.prompt_len is None:
        notes.append("The prompts' lengths are unknown: every row counts as decode, prompts included if recorded.")
    return Trace(
        geometry=geometry_of(options, len(layers), options.num_experts, shape[2]),
        topk_ids=ids,
        request_offsets=offsets.astype(np.int64),
        prompt_len=prompt_len,
        phase=_phase(offsets, prompt_len),
        ranked=options.ranked,
        provenance={
            "imported_from": "routed_experts",
            "sha256": {path.name: sha256_of(path) for path in _files(source)},
            "requests": list(arrays) if len(arrays) <= 1000 else len(arrays),
            "notes": notes,
        },
    )


def _text(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorting key that puts request_2 before request_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def _files(source: Path) -> list[Path]:
    return sorted(source.glob("*.npy"), key=lambda path: _natural(path.stem)) if source.is_dir() else [source]


def _arrays(source: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    """A loader per request, by name, in natural order."""
    if not source.exists():
        raise UserError(f"{source} does not exist: must be an .npy file, an .npz file or a folder of .npy files")
    arrays: dict[str, Callable[[], NDArray[Any]]]
    if source.suffix == ".npz":
        arrays = {name: partial(npz_array, source, name) for name in sorted(npz_names(source), key=_natural)}
    elif source.is_dir() or source.suffix == ".npy":
        arrays = {path.stem: partial(npy_array, path) for path in _files(source)}
    else:
        raise UserError(f"{source.name} is neither an .npy file, an .npz file nor a folder of .npy files")
    if not arrays:
        raise UserError(f"{source.name} holds no arrays")
    return arrays


def _copy(array: NDArray[Any], layers: list[int], num_experts: int, name: str, out: NDArray[Any]) -> None:
    """Copy the MoE layers of one request into the trace, checked, a chunk of tokens at a time."""
    if array.shape[2] > 1 and (empty := np.flatnonzero(~array[:, layers].any(axis=(0, 2)))).size:
        raise UserError(
            f"Layer {layers[empty[0]]} of {name!r} holds expert 0 for every token and rank, as layers without experts "
            "do; leave it out with --dense-layers"
        )
    for start in range(0, len(array), _CHUNK_ROWS):
        chunk = array[start : start + _CHUNK_ROWS, layers]
        out[start : start + len(chunk)] = expert_ids(chunk, num_experts, f"Array {name!r}")


def _prompt_len(claim: tuple[int, ...] | None, shapes: dict[str, tuple[int, ...]]) -> NDArray[np.int32]:
    if claim is None:
        return np.zeros(len(shapes), np.int32)
    lengths = claim * len(shapes) if len(claim) == 1 else claim
    if len(lengths) != len(shapes):
        raise UserError(f"--prompt-len has {len(lengths)} lengths for {len(shapes)} requests: must be one or all")
    for length, (name, shape) in zip(lengths, shapes.items(), strict=True):
        if length > shape[0]:
            raise UserError(f"--prompt-len={length}: must be at most {shape[0]}, the tokens of request {name!r}")
    return np.array(lengths, np.int32)


def _phase(offsets: NDArray[np.int64], prompt_len: NDArray[np.int32]) -> NDArray[np.uint8]:
    kinds = np.tile(np.array([PREFILL, DECODE], np.uint8), len(prompt_len))
    return np.repeat(kinds, np.stack([prompt_len, np.diff(offsets) - prompt_len], axis=1).ravel())
