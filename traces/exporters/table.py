"""A trace as CSV, TSV, JSON lines or Parquet: a row per rank (long) or per token and layer (wide).

Columns: request, token (its position in the context), token_id where known, phase, layer, then rank, expert, weight or
the lists experts and weights. What a trace is beside its rows (model, sizes, whether ranks stand for merit) goes where
the format has room for it: a comment line of CSV, the first JSON line, metadata of the Parquet schema.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.mapped import load
from traces.format.ranks import signed_ids
from traces.format.trace import DECODE, SCORE_TABLES, Trace
from traces.whole_file import whole_file

LONG, WIDE = "long", "wide"
LAYOUTS = {".csv": LONG, ".tsv": LONG, ".parquet": LONG, ".jsonl": WIDE}
"""Endings of file names, and the layout each has unless another is asked for."""
_ROWS = 4096
_PHASES = np.array(["prefill", "decode"])


def left_out(trace: Trace) -> list[str]:
    """What of a trace no table holds, by name."""
    names = [name for name in SCORE_TABLES if getattr(trace, name) is not None]
    return names + [name for name in ("draft_counts", "expert_similarity") if getattr(trace, name) is not None]


def write_routing(path: Path, trace: Trace, layout: str | None = None) -> int:
    """Write `path` whole or not at all -> its rows.

    Raises: UserError for an ending that is none of `LAYOUTS`, and for lists in CSV.
    """
    ending = path.suffix.lower()
    if ending not in LAYOUTS:
        raise UserError(f"OUT={path}: must end in {', '.join(LAYOUTS)}")
    layout = layout or LAYOUTS[ending]
    if layout == WIDE and LAYOUTS[ending] == LONG and ending != ".parquet":
        raise UserError(f"--layout={layout}: {ending[1:]} has no lists; take long, or .jsonl or .parquet")
    pieces = (_wide if layout == WIDE else _long)(trace)
    with whole_file(path) as file:
        if ending == ".parquet":
            return _write_parquet(file, pieces, _metadata(trace))
        if ending == ".jsonl":
            return _write_json(file, pieces, _metadata(trace))
        return _write_text(file, pieces, _metadata(trace), "," if ending == ".csv" else "\t")


def _metadata(trace: Trace) -> dict[str, Any]:
    known = {name: value for name, value in asdict(trace.geometry).items() if value is not None}
    return {
        **known,
        "ranked": trace.ranked,
        "score_function": trace.score_function,
        "first_token": 0,
        "weights": None if trace.topk_weights is None else trace.topk_weights.dtype.name,
        "request_labels": None if trace.request_labels is None else list(trace.request_labels),
    }


Columns = dict[str, NDArray[Any]]


def _pieces(trace: Trace) -> Iterator[tuple[slice, Columns, NDArray[Any], NDArray[Any] | None]]:
    """Some rows at a time: which, columns of the rows [n], ids [n, L, K] with -1 for none, weights."""
    request = np.repeat(np.arange(trace.num_requests), np.diff(trace.request_offsets))
    position = trace.positions()
    for start in range(0, trace.num_tokens, _ROWS):
        rows = slice(start, min(start + _ROWS, trace.num_tokens))
        columns: Columns = {"request": request[rows], "token": position[rows]}
        if trace.token_ids is not None:
            columns["token_id"] = load(trace.token_ids[rows])
        columns["phase"] = _PHASES[(trace.phase[rows] == DECODE).astype(int)]
        ids = signed_ids(load(trace.topk_ids[rows]), trace.fewer)
        yield rows, columns, ids, None if trace.topk_weights is None else load(trace.topk_weights[rows])


def _long(trace: Trace) -> Iterator[Columns]:
    """A row per rank with an expert; a cell without any has one row of expert -1."""
    for _, columns, ids, weights in _pieces(trace):
        layers, width = ids.shape[1:]
        kept = (ids >= 0).reshape(-1)
        kept |= ((ids < 0).all(-1, keepdims=True) & (np.arange(width) == 0)).reshape(-1)
        piece = {name: np.repeat(values, layers * width)[kept] for name, values in columns.items()}
        piece["layer"] = np.tile(np.repeat(np.arange(layers), width), len(ids))[kept]
        piece["rank"] = np.tile(np.arange(width), len(ids) * layers)[kept]
        piece["expert"] = ids.reshape(-1)[kept]
        if weights is not None:
            piece["weight"] = weights.reshape(-1)[kept]
        yield piece


def _wide(trace: Trace) -> Iterator[Columns]:
    """A row per token and layer; ranks without an expert are -1."""
    for _, columns, ids, weights in _pieces(trace):
        layers, width = ids.shape[1:]
        piece: Columns = {name: np.repeat(values, layers) for name, values in columns.items()}
        piece["layer"] = np.tile(np.arange(layers), len(ids))
        piece["experts"] = ids.reshape(-1, width)
        if weights is not None:
            piece["weights"] = weights.reshape(-1, width)
        yield piece


def _write_text(file: IO[bytes], pieces: Iterator[Columns], metadata: dict[str, Any], delimiter: str) -> int:
    file.write(f"# {json.dumps(metadata)}\n".encode())
    count = 0
    for piece in pieces:
        if not count:
            file.write((delimiter.join(piece) + "\n").encode())
        texts = [values.astype(str).tolist() for values in piece.values()]
        lines = [delimiter.join(cells) for cells in zip(*texts, strict=True)]
        file.write(("\n".join(lines) + "\n").encode())
        count += len(lines)
    return count


def _write_json(file: IO[bytes], pieces: Iterator[Columns], metadata: dict[str, Any]) -> int:
    file.write((json.dumps({"metadata": metadata}) + "\n").encode())
    count = 0
    for piece in pieces:
        lists = [_plain(values) for values in piece.values()]
        for values in zip(*lists, strict=True):
            file.write((json.dumps(dict(zip(piece, values, strict=True))) + "\n").encode())
            count += 1
    return count


def _plain(values: NDArray[Any]) -> list[Any]:
    """Values as JSON has them; floats with the digits that tell them apart in their own precision."""
    if values.dtype.kind != "f":
        return list(values.tolist())
    texts = values.astype(str)
    return list(texts.astype(np.float64).tolist())


def _write_parquet(file: IO[bytes], pieces: Iterator[Columns], metadata: dict[str, Any]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, count = None, 0
    for piece in pieces:
        columns = {
            name: pa.array(values) if values.ndim == 1 else pa.array(list(values)) for name, values in piece.items()
        }
        table = pa.table(columns).replace_schema_metadata({"moe_offload_sim": json.dumps(metadata)})
        if writer is None:
            writer = pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
        count += table.num_rows
    if writer is not None:
        writer.close()
    return count
