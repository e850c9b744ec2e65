"""Reading and writing trace files: one safetensors file, mapped into memory, described in traces/README.md."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.header import DTYPE_NAMES, MAX_HEADER_BYTES, Entry, read_header
from traces.format.mapped import load, map_file
from traces.format.tensors import (
    HELD,
    KNOWN_NAMES,
    OPTIONAL,
    REQUIRED,
    byte_chunks,
    hash_content,
    score_table,
    trace_tensors,
)
from traces.format.trace import SCORE_TABLES, Geometry, Trace
from traces.format.validation import validate
from traces.special_files import require_regular
from traces.whole_file import whole_file
from traces.whole_input import MOST_JSON_VALUES

SCHEMA_VERSION, WITH_FEWER = "1", "2"
"""A file is of the second version only where tokens may use fewer than K experts, which readers of the first do not
know."""
MAX_DEPTH = 64
"""Levels of lists and objects in the metadata."""


def read_trace(path: str | Path, check_rows: bool = True) -> Trace:
    """The trace in file `path`, memory mapped; with `check_rows` every row and the hash are checked too.

    Raises: UserError naming the file and what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: must be a trace file (*.safetensors)")
    if not path.exists():
        raise UserError(f"Trace file {path} does not exist")
    require_regular(path)
    try:
        trace = _open(path)
        validate(trace, rows=check_rows)
        if check_rows or not trace.content_hash:
            trace = replace(trace, content_hash=_proved_hash(trace))
    except UserError as error:
        raise UserError(f"Trace file {path.name}: {error}") from error
    return trace


def write_trace(path: str | Path, trace: Trace) -> Trace:
    """Check `trace` and write it to `path`, all or nothing; same content, same bytes. Returns it with its content hash.

    The file is written beside its target, flushed to disk and then renamed, so that no half-written trace is ever seen.

    Raises: UserError if the trace is not valid or the file cannot be written.
    """
    path = Path(path)
    validate(trace)
    trace = replace(trace, content_hash=hash_content(trace))
    tensors = dict(sorted(trace_tensors(trace).items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header = _header_bytes(tensors, _metadata(trace))
    try:
        with whole_file(path) as file:
            _write(file, header, tensors)
    except OSError as error:
        raise UserError(f"Trace file {path} cannot be written: {error.strerror or error}") from error
    return trace


def _proved_hash(trace: Trace) -> str:
    """The hash of the content, which is the stored one unless others wrote the file without."""
    actual = hash_content(trace)
    if trace.content_hash not in ("", actual):
        raise UserError(
            f"its content has the hash {actual[:16]} but {trace.content_hash[:16]!r} is stored, so it was changed "
            "after it was written"
        )
    return actual


def _open(path: Path) -> Trace:
    try:
        file = path.open("rb")  # header and data of one file, even if another one takes its name meanwhile
        header = read_header(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    version = header.metadata.get("schema_version")
    if version is None:
        raise UserError("The metadata has no 'schema_version', so this is not a trace (see traces/README.md)")
    if version not in (SCHEMA_VERSION, WITH_FEWER):
        raise UserError(f"schema_version={version!r} is unknown: must be '{SCHEMA_VERSION}' or '{WITH_FEWER}'")
    names = {entry.name for entry in header.entries}
    if unknown := sorted(names - KNOWN_NAMES):
        raise UserError(f"Tensor {unknown[0]!r} is unknown; a trace holds {', '.join(sorted(KNOWN_NAMES))}")
    if absent := [name for name in REQUIRED if name not in names]:
        raise UserError(f"Tensor '{absent[0]}' is missing; {', '.join(REQUIRED)} are required")
    mapped = map_file(file)
    tensors = {entry.name: _view(mapped, entry) for entry in header.entries}
    tensors |= {name: load(tensors[name]) for name in HELD if name in tensors}
    flags = _json_object(header.metadata, "flags")
    labels = _json_value(header.metadata, "request_labels", default=None)
    if not (labels is None or (isinstance(labels, list) and all(isinstance(label, str) for label in labels))):
        raise UserError("Metadata 'request_labels' must be a JSON list of strings, one per request")
    arrays: dict[str, Any] = {name: tensors.get(name) for name in (*REQUIRED, *OPTIONAL)}
    arrays |= {name: score_table(tensors, name) for name in SCORE_TABLES}
    return Trace(
        geometry=_geometry(_json_object(header.metadata, "geometry")),
        **arrays,
        ranked=_flag(flags, "ranked", bool),
        fewer=version == WITH_FEWER,
        score_function=_flag(flags, "score_function", str, optional=True),
        request_labels=None if labels is None else tuple(labels),
        provenance=_json_object(header.metadata, "provenance", default={}),
        content_hash=header.metadata.get("content_hash", ""),
    )


def _view(mapped: NDArray[np.uint8], entry: Entry) -> NDArray[Any]:
    array = mapped[entry.begin : entry.end].view(entry.dtype).reshape(entry.shape)
    # Other writers may misalign a tensor; compiled code wants aligned memory.
    return array if array.flags.aligned else array.copy()


def _json_value(metadata: Mapping[str, str], name: str, **default: Any) -> Any:
    if name not in metadata:
        if "default" in default:
            return default["default"]
        raise UserError(f"The metadata has no '{name}' (see traces/README.md)")
    text = metadata[name]
    if text.count(",") + text.count("[") + text.count("{") > MOST_JSON_VALUES:
        raise UserError(f"Metadata '{name}' holds more than {MOST_JSON_VALUES} values")
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # results carry it on, and JSON knows no NaN
    except (ValueError, RecursionError) as error:
        raise UserError(f"Metadata '{name}' is not valid JSON") from error
    if _depth(value) > MAX_DEPTH:
        raise UserError(f"Metadata '{name}' is nested deeper than {MAX_DEPTH} levels")
    return value


def _depth(value: Any) -> int:
    """Levels of lists and objects in a JSON value."""
    level, depth = [value], 0
    while level := [entry for entry in level if isinstance(entry, dict | list)]:
        depth += 1
        level = [inner for entry in level for inner in (entry.values() if isinstance(entry, dict) else entry)]
    return depth


def _json_object(metadata: Mapping[str, str], name: str, **default: Any) -> dict[str, Any]:
    value = _json_value(metadata, name, **default)
    if not isinstance(value, dict):
        raise UserError(f"Metadata '{name}' must be a JSON object, not {type(value).__name__}")
    return value


def _flag(flags: dict[str, Any], name: str, kind: type, optional: bool = False) -> Any:
    value = flags.get(name)
    if not (isinstance(value, kind) or (optional and value is None)):
        raise UserError(f"Metadata 'flags' has {name}={value!r}: must be a {kind.__name__}")
    return value


def _geometry(claim: dict[str, Any]) -> Geometry:
    names = [field.name for field in fields(Geometry)]
    if unknown := sorted(set(claim) - set(names)):
        raise UserError(f"Metadata 'geometry' has the unknown field {unknown[0]!r}; known are {', '.join(names)}")
    if absent := [name for name in ("model", "num_layers", "num_experts", "top_k") if name not in claim]:
        raise UserError(f"Metadata 'geometry' lacks the field '{absent[0]}'")
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in claim.items()}
    return Geometry(**sizes)


def _metadata(trace: Trace) -> dict[str, str]:
    values: dict[str, Any] = {
        "geometry": asdict(trace.geometry),
        "flags": {"ranked": trace.ranked, "score_function": trace.score_function},
        "provenance": trace.provenance,
    }
    if trace.request_labels is not None:
        values["request_labels"] = list(trace.request_labels)
    return {
        "schema_version": WITH_FEWER if trace.fewer else SCHEMA_VERSION,
        "content_hash": trace.content_hash,
        **{name: _dump(name, value) for name, value in values.items()},
    }


def _dump(name: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be written as JSON: {error}") from error


def _header_bytes(tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    claims: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, array in tensors.items():
        end = position + array.nbytes
        dtype = DTYPE_NAMES[array.dtype.newbyteorder("<")]
        claims[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(claims, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise UserError(f"The metadata takes {len(text)} bytes: must be at most {MAX_HEADER_BYTES}")
    return text


def _write(file: IO[bytes], header: bytes, tensors: Mapping[str, NDArray[Any]]) -> None:
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for array in tensors.values():
        for chunk in byte_chunks(array):
            file.write(chunk)
