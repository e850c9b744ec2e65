"""Routing as JSON lines, one record per (request, token, layer).

A line is {"request": 0, "token": 0, "layer": 0, "experts": [5, 3]}; these fields are required. Optional fields:
"weights" (or "gate_probs", one number per expert, in all records or in none) and "phase" ("prefill" or "decode", the
default). Requests keep the order of first appearance, tokens and layers that of their numbers; token numbers count
from 0 in each request, layers from 0. With weights the experts are sorted best first.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL, Geometry, Trace, id_dtype
from traces.importers._sources import add_model_options, check_num_experts, json_lines, require, sha256_of

EXAMPLE = "jsonl routing.jsonl out.safetensors --num-experts 64"
_Fields = tuple[Any, int, int, list[int], NDArray[np.float32] | None, int]
"""Request, token, layer, experts, weights, phase."""
_PHASES = {"prefill": PREFILL, "decode": DECODE}


@dataclass(slots=True)
class _Records:
    """Cells by (request, token, layer), where a request is its number in order of appearance."""

    requests: dict[Any, int] = field(default_factory=dict)
    experts: dict[tuple[int, int, int], NDArray[np.int64]] = field(default_factory=dict)
    weights: dict[tuple[int, int, int], NDArray[np.float32]] = field(default_factory=dict)
    phase: dict[tuple[int, int], int] = field(default_factory=dict)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --num-experts and --model."""
    add_model_options(parser)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    check_num_experts(options.num_experts)
    records = _read_records(require(source, "file"), options.num_experts)
    rows = list(records.phase)
    num_layers = 1 + max(layer for _, _, layer in records.experts)
    top_k = len(next(iter(records.experts.values())))
    rows.sort()
    if len(records.experts) != len(rows) * num_layers:
        raise UserError(
            f"{source.name} has {len(records.experts)} records for {len(rows)} tokens of {num_layers} layers"
        )
    cells = [(request, token, layer) for request, token in rows for layer in range(num_layers)]
    shape = (len(rows), num_layers, top_k)
    lengths = np.bincount([request for request, _ in rows])
    phase = np.array([records.phase[row] for row in rows], np.uint8)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    return Trace(
        geometry=Geometry(options.model, num_layers, options.num_experts, top_k),
        topk_ids=np.array([records.experts[cell] for cell in cells], id_dtype(options.num_experts)).reshape(shape),
        topk_weights=np.array([records.weights[cell] for cell in cells], np.float32).reshape(shape)
        if records.weights
        else None,
        request_offsets=offsets,
        prompt_len=np.add.reduceat(phase == PREFILL, offsets[:-1], dtype=np.int32),
        phase=phase,
        ranked=bool(records.weights),
        provenance={"imported_from": "jsonl", "sha256": {source.name: sha256_of(source)}},
    )


def _read_records(path: Path, num_experts: int) -> _Records:
    records = _Records()
    width = 0
    for where, record in json_lines(path):
        request, token, layer, experts, weights, phase = _parse(record, where, num_experts)
        width = width or len(experts)
        if len(experts) != width:
            raise UserError(f"{where} has {len(experts)} experts; the lines before have {width}")
        cell = (records.requests.setdefault(request, len(records.requests)), token, layer)
        if cell in records.experts:
            raise UserError(f"{where} gives request {request!r}, token {token}, layer {layer} a second time")
        if (weights is not None) != bool(records.weights) and records.experts:
            raise UserError(f"{where}: weights must be in all lines or in none")
        if records.phase.setdefault(cell[:2], phase) != phase:
            raise UserError(f"{where}: the phase of a token must be the same in all layers")
        order = np.argsort(-weights, kind="stable") if weights is not None else np.arange(width)
        records.experts[cell] = np.array(experts)[order]
        if weights is not None:
            records.weights[cell] = weights[order]
    if not records.experts:
        raise UserError(f"{path.name} has no lines")
    return records


def _parse(record: Any, where: str, num_experts: int) -> _Fields:
    """The fields of a line, each checked."""
    if not isinstance(record, dict) or not isinstance(record.get("request"), int | str):
        raise UserError(f"{where}: must be an object whose 'request' is a number or text")
    token, layer = (_count(record.get(name), where, name, 2**31) for name in ("token", "layer"))
    experts = record.get("experts")
    if not isinstance(experts, list) or not experts:
        raise UserError(f"{where}: 'experts' must be a list of expert numbers")
    experts = [_count(expert, where, "expert", num_experts) for expert in experts]
    weights = record.get("weights", record.get("gate_probs"))
    if weights is not None and (
        not isinstance(weights, list)
        or len(weights) != len(experts)
        or not all(isinstance(weight, int | float) for weight in weights)
    ):
        raise UserError(f"{where}: weights must be a list of {len(experts)} numbers, one per expert")
    phase = record.get("phase", "decode")
    if phase not in ("prefill", "decode"):
        raise UserError(f"{where}: phase={phase!r}: must be 'prefill' or 'decode'")
    return record["request"], token, layer, experts, None if weights is None else _floats(weights), _PHASES[phase]


def _floats(weights: list[float]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # an infinite weight is refused with the trace's own sentence
        try:
            return np.array(weights, np.float64).astype(np.float32)
        except OverflowError:  # a whole number beyond any float
            return np.full(len(weights), np.inf, np.float32)


def _count(value: object, where: str, name: str, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise UserError(f"{where}: {name}={value!r}: must be an integer from 0 to {limit - 1}")
    return value
