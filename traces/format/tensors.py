"""The names under which a trace's arrays lie in its file, and the hash of its content."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.mapped import load, release
from traces.format.trace import SCORE_TABLES, ScoreTable, Trace

REQUIRED = ("topk_ids", "request_offsets", "prompt_len", "phase")
HELD = ("request_offsets", "prompt_len", "phase", "draft_counts", "expert_similarity")
"""Small arrays that are held in memory."""
OPTIONAL = ("topk_weights", "token_ids", "draft_counts", "expert_similarity")
TRUNCATED_PARTS = ("ids", "values", "log_normalizer")
KNOWN_NAMES = frozenset(
    (*REQUIRED, *OPTIONAL, *SCORE_TABLES, *(f"{table}.{part}" for table in SCORE_TABLES for part in TRUNCATED_PARTS))
)
CHUNK_BYTES = 1 << 21
"""Bytes of an array that are read at a time."""


def trace_tensors(trace: Trace) -> dict[str, NDArray[Any]]:
    """All arrays of a trace under their names in the file."""
    tensors: dict[str, NDArray[Any]] = {name: getattr(trace, name) for name in REQUIRED}
    tensors |= {name: array for name in OPTIONAL if (array := getattr(trace, name)) is not None}
    for name in SCORE_TABLES:
        table: ScoreTable | None = getattr(trace, name)
        if table is None:
            continue
        if table.ids is None or table.log_normalizer is None:
            tensors[name] = table.values
        else:
            tensors |= {
                f"{name}.ids": table.ids,
                f"{name}.values": table.values,
                f"{name}.log_normalizer": table.log_normalizer,
            }
    return tensors


def chunk_rows(array: NDArray[Any]) -> int:
    """How many rows of an array make a chunk."""
    return max(1, CHUNK_BYTES * len(array) // max(1, array.nbytes))


def loaded_chunks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, rows in ordinary memory) chunk by chunk; each is let go of when the next one is asked for."""
    rows = chunk_rows(array)
    for start in range(0, len(array), rows):
        yield start, load(array[start : start + rows])
        release(array[start : start + rows])


def release_rows(trace: Trace, start: int, stop: int) -> None:
    """Give back the memory of rows start..stop of a mapped trace, after they have been copied or looked at."""
    for array in trace_tensors(trace).values():
        if len(array) == trace.num_tokens:
            release(array[start:stop])


def score_table(tensors: Mapping[str, NDArray[Any]], name: str) -> ScoreTable | None:
    """The score table `name` from the file's tensors, None where it has none.

    Raises: UserError if only a part of a truncated table is there, or both a dense and a truncated one.
    """
    present = [part for part in TRUNCATED_PARTS if f"{name}.{part}" in tensors]
    if name in tensors:
        if present:
            raise UserError(f"Both a dense tensor '{name}' and a truncated '{name}.{present[0]}' are there; keep one")
        return ScoreTable(tensors[name])
    if not present:
        return None
    if absent := [part for part in TRUNCATED_PARTS if part not in present]:
        raise UserError(f"Tensor '{name}.{absent[0]}' is missing beside '{name}.{present[0]}'")
    ids, values, log_normalizer = (tensors[f"{name}.{part}"] for part in TRUNCATED_PARTS)
    return ScoreTable(values, ids, log_normalizer)


def hash_content(trace: Trace) -> str:
    """sha256 over tensors, geometry, ranking and score function; times and places of recording do not count."""
    digest = hashlib.sha256()
    meaning = {"geometry": asdict(trace.geometry), "ranked": trace.ranked, "score_function": trace.score_function}
    meaning |= {"fewer": True} if trace.fewer else {}
    digest.update(json.dumps(meaning, sort_keys=True).encode())
    for name, array in sorted(trace_tensors(trace).items()):
        digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
        for chunk in byte_chunks(array):
            digest.update(chunk)
    return digest.hexdigest()


def byte_chunks(array: NDArray[Any]) -> Iterator[memoryview]:
    """The little-endian bytes of an array in row order, a bounded piece at a time."""
    if array.size:
        for _, piece in loaded_chunks(array):
            yield piece.astype(piece.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1).data
