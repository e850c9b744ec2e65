"""Answers of SGLang and vLLM servers as they come: JSON with routed experts as base64, lists, or an .npy in base64."""

import base64
import binascii
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.importers._sources import npy_bytes
from traces.whole_input import parse_json, read_bounded, unpacked

MOST_BYTES = 1 << 27
_FIELD, _START = "routed_experts", "routed_experts_start_len"
_FORMS = f"choices[].sgl_ext.{_FIELD}, choices[].{_FIELD} or meta_info.{_FIELD}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Routing of one answer: `ids` [n, L, K] of the tokens from `start` on; how many tokens its prompt has, if said."""

    name: str
    ids: NDArray[np.integer[Any]]
    start: int
    prompt_tokens: int | None


def read_answers(path: Path, num_layers: int | None, top_k: int | None) -> list[Answer]:
    """All answers of a file: one, a list of them, or one per line; each choice of an answer is one.

    `num_layers`, `top_k`: what base64 does not say. Raises: UserError for a file that holds none.
    """
    data = read_bounded(path, MOST_BYTES, "the file")
    if data[:2] == b"\x1f\x8b":
        data = unpacked(data, path.name)
    found = []
    for where, value in _values(data, path):
        for number, answer in enumerate(value if isinstance(value, list) else [value]):
            label = f"{where}, answer {number}" if isinstance(value, list) else where
            found += list(_choices(answer, label, num_layers, top_k))
    return found


def _values(data: bytes, path: Path) -> Iterator[tuple[str, Any]]:
    """The whole file as JSON, or each of its lines."""
    lines = [line for line in data.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path.name} is empty: must be JSON")
    if len(lines) > 1 and lines[0].strip()[-1:] == b"}" and lines[0].strip()[:1] == b"{":
        for number, line in enumerate(lines, 1):
            yield f"{path.name} line {number}", parse_json(line, f"{path.name} line {number}")
    else:
        yield path.name, parse_json(data, path.name)


def _choices(answer: Any, where: str, num_layers: int | None, top_k: int | None) -> Iterator[Answer]:
    if not isinstance(answer, dict):
        raise UserError(f"{where} is no answer of a server: must be an object with {_FORMS}")
    choices = answer.get("choices")
    parts = choices if isinstance(choices, list) and choices else [answer]
    for number, part in enumerate(parts):
        places = [place for place in _places(part, answer) if isinstance(place, dict)]
        held = next((place for place in places if place.get(_FIELD) is not None), None)
        if held is None:
            raise UserError(f"{where} has no {_FORMS}: was the server told to return routed experts?")
        start = _count(places, _START, where) or 0
        prompt, completion = (_count(places, name, where) for name in ("prompt_tokens", "completion_tokens"))
        rows = None if prompt is None or completion is None or len(parts) > 1 else prompt + completion - 1 - start
        ids = _ids(held[_FIELD], where, rows, num_layers, top_k)
        name = answer.get("id", answer.get("request_id"))
        label = str(name) if isinstance(name, str | int) else where
        yield Answer(label if len(parts) == 1 else f"{label} choice {number}", ids, start, prompt)


def _places(part: Any, answer: Mapping[str, Any]) -> Iterator[Any]:
    """Where an answer may say something, the nearest first."""
    for place in (part, answer):
        if isinstance(place, dict):
            yield from (place.get("sgl_ext"), place.get("meta_info"), place)
    yield answer.get("usage")


def _count(places: list[dict[str, Any]], name: str, where: str) -> int | None:
    value = next((place[name] for place in places if place.get(name) is not None), None)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31):
        raise UserError(f"{where}: {name}={value!r}: must be an integer of zero or more")
    return value


def _ids(value: Any, where: str, rows: int | None, num_layers: int | None, top_k: int | None) -> NDArray[Any]:
    """Ids [n, L, K] as the answer gives them."""
    if isinstance(value, list):
        return _listed(value, where)
    if not isinstance(value, str):
        raise UserError(f"{where}: {_FIELD} must be base64 or lists, not {type(value).__name__}")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: {_FIELD} is no base64: {error}") from error
    if data[:6] == b"\x93NUMPY":
        return npy_bytes(io.BytesIO(data), len(data), f"{_FIELD} of {where}")
    flat = np.frombuffer(data[: len(data) // 4 * 4], "<i4")
    if len(data) % 4 or not flat.size:
        raise UserError(f"{where}: {_FIELD} has {len(data)} bytes: must be int32, 4 bytes each")
    return flat.reshape(_shape(flat.size, where, rows, num_layers, top_k))


def _shape(size: int, where: str, rows: int | None, num_layers: int | None, top_k: int | None) -> tuple[int, int, int]:
    """(tokens, layers, top_k) of `size` ids; where the answer counts its tokens, one of the last two is enough."""
    if rows and size % rows == 0:
        per_row = size // rows
        num_layers = num_layers or (per_row // top_k if top_k and per_row % top_k == 0 else None)
        top_k = top_k or (per_row // num_layers if num_layers and per_row % num_layers == 0 else None)
    if not num_layers or not top_k:
        raise UserError(
            f"{where}: {_FIELD} holds {size} ids in a row: say how many layers and experts per token with --num-layers "
            "and --top-k" + (" (one of them is enough)" if rows and size % rows == 0 else "")
        )
    if size % (num_layers * top_k) or (rows and size // (num_layers * top_k) > rows + 1):
        raise UserError(
            f"{where}: {_FIELD} holds {size} ids, which {num_layers} layers and {top_k} experts per token do not make"
            + (f" for {rows} tokens" if rows else "")
        )
    return size // (num_layers * top_k), num_layers, top_k


def _listed(value: list[Any], where: str) -> NDArray[Any]:
    try:
        ids = np.array(value)
    except ValueError:
        ids = np.empty(0)
    if ids.ndim != 3 or ids.dtype.kind not in "iu" or not ids.size:
        raise UserError(f"{where}: {_FIELD} must be whole numbers by token, layer and rank, as many in each")
    return ids
