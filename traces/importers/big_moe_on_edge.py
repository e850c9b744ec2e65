"""Qwen3-30B-A3B routing on a phone: *.route.csv of BigMoeOnEdge, one line per (step, layer, slot).

Comment lines give the model and, per layer, expert_bytes and dense_bytes (all that is not experts, taken as
attention_bytes); the columns are turn, phase (0 prefill, 1 decode), step, layer, slot, expert, weight, residency,
expert_bytes. Each turn becomes a request. The runtime computes only the last prompt token in the last layer: missing
prefill entries are filled with those of the next recorded token, which leaves the step's set of experts and the order
of their last use exact, but not token counts. Residency and bytes read are the recorder's own cache and are left out.
Source: https://github.com/Helldez/BigMoeOnEdge (Apache-2.0)
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL, Geometry, Trace, id_dtype
from traces.importers._sources import integer, numbered_lines, require, sha256_of

EXAMPLE = "big_moe_on_edge qwen.route.csv qwen.safetensors"
COLUMNS = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"
_MISSING = -1
_MOST_LAYERS, _MOST_EXPERTS, _MOST_TOP_K = 4096, 65535, 1024
_FREE_ENTRIES, _ENTRIES_PER_LINE = 1 << 22, 64
"""A file may make room for so many entries of (token, layer, slot) and, above that, for so many per line it has."""


@dataclass(slots=True)
class _Header:
    """What the comment lines say."""

    model: str
    num_layers: int
    num_experts: int
    top_k: int
    expert_bytes: list[int]
    dense_bytes: list[int]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --model."""
    parser.add_argument("--model", default="qwen3_30b_a3b", help="model name of the trace (default: %(default)s)")


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    lines = numbered_lines(require(source, "file"))
    header = _read_header(source, lines)
    rows = _read_rows(source, lines, header)
    keys = sorted(rows)  # turn, phase, step
    ids = np.stack([rows[key][0] for key in keys])  # [T, L, K]
    weights = np.stack([rows[key][1] for key in keys])
    turn, phase = np.array([key[0] for key in keys]), np.array([key[1] for key in keys], np.uint8)
    filled = _fill_prefill(source, ids, weights, turn, phase)
    turns, first = np.unique(turn, return_index=True)
    return Trace(
        geometry=Geometry(
            options.model,
            header.num_layers,
            header.num_experts,
            header.top_k,
            expert_bytes=tuple(header.expert_bytes),
            attention_bytes=tuple(header.dense_bytes),
        ),
        topk_ids=ids.astype(id_dtype(header.num_experts)),
        topk_weights=weights,
        request_offsets=np.append(first, len(turn)).astype(np.int64),
        prompt_len=np.array([np.sum((turn == number) & (phase == PREFILL)) for number in turns], np.int32),
        phase=phase,
        score_function="softmax_topk",
        provenance={
            "imported_from": "big_moe_on_edge",
            "source": "https://github.com/Helldez/BigMoeOnEdge",
            "model_file": header.model,
            "sha256": {source.name: sha256_of(source)},
            "notes": [
                f"{filled} prefill entries of (token, layer) were not recorded, because only the last prompt token is "
                "computed there; they repeat the next recorded token, so that the sets of experts are exact and token "
                "counts are not.",
                "attention_bytes is dense_bytes: all of a layer that is not routed experts.",
            ],
            "filled_prefill_entries": filled,
        },
    )


def _read_header(source: Path, lines: Any) -> _Header:
    header: _Header | None = None
    for number, line in lines:
        if line == COLUMNS:
            if header is None or len(header.expert_bytes) != header.num_layers:
                raise UserError(
                    f"{source.name} line {number}: comment lines for the model and all its layers come first"
                )
            return header
        if not line.startswith("#"):
            break
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        if "model" in fields:
            least = {"n_layer": _MOST_LAYERS, "n_expert": _MOST_EXPERTS, "n_expert_used": _MOST_TOP_K}
            sizes = [integer(fields.get(name, ""), source, number, name) for name in least]
            if any(not 1 <= size <= most for size, most in zip(sizes, least.values(), strict=True)):
                raise UserError(f"{source.name} line {number}: sizes {sizes} of the model are out of range")
            header = _Header(fields["model"].rsplit("/", 1)[-1], sizes[0], sizes[1], sizes[2], [], [])
        elif "layer" in fields and header is not None:
            if fields["layer"] != str(len(header.expert_bytes)):
                raise UserError(f"{source.name} line {number}: layer {len(header.expert_bytes)} is next")
            header.expert_bytes.append(integer(fields.get("expert_bytes", ""), source, number, "expert_bytes"))
            header.dense_bytes.append(integer(fields.get("dense_bytes", ""), source, number, "dense_bytes"))
    raise UserError(f"{source.name} has no line '{COLUMNS}' after its comments, so it is no route.csv")


def _read_rows(
    source: Path, lines: Any, header: _Header
) -> dict[tuple[int, int, int], tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Ids and weights [L, K] by (turn, phase, step); ids that are not recorded are _MISSING."""
    rows: dict[tuple[int, int, int], tuple[NDArray[np.int32], NDArray[np.float32]]] = {}
    limits = (2**31, DECODE + 1, 2**31, header.num_layers, header.top_k, header.num_experts)
    names = COLUMNS.split(",")
    shape = (header.num_layers, header.top_k)
    for number, line in lines:
        cells = line.split(",")
        if len(cells) != len(names):
            raise UserError(f"{source.name} line {number} has {len(cells)} columns: must have {len(names)}")
        numbers = [integer(cell, source, number, name) for cell, name in zip(cells[:6], names, strict=False)]
        for value, limit, name in zip(numbers, limits, names, strict=False):
            if value >= limit:
                raise UserError(f"{source.name} line {number}: {name}={value}: must be from 0 to {limit - 1}")
        turn, phase, step, layer, slot, expert = numbers
        if (turn, phase, step) not in rows:
            if (len(rows) + 1) * shape[0] * shape[1] > _FREE_ENTRIES + _ENTRIES_PER_LINE * number:
                raise UserError(
                    f"{source.name} line {number} begins token {len(rows)} of {shape[0]} layers and {shape[1]} slots, "
                    "and the lines before hold hardly any of them"
                )
            rows[turn, phase, step] = (np.full(shape, _MISSING, np.int32), np.zeros(shape, np.float32))
        ids, weights = rows[turn, phase, step]
        if ids[layer, slot] != _MISSING:
            raise UserError(f"{source.name} line {number} gives step {step}, layer {layer}, slot {slot} a second time")
        ids[layer, slot] = expert
        try:
            weights[layer, slot] = float(cells[6])
        except ValueError as error:
            raise UserError(f"{source.name} line {number}: weight={cells[6]!r}: must be a number") from error
    if not rows:
        raise UserError(f"{source.name} has no rows after its column names")
    return rows


def _fill_prefill(
    source: Path,
    ids: NDArray[np.int32],
    weights: NDArray[np.float32],
    turn: NDArray[np.int64],
    phase: NDArray[np.uint8],
) -> int:
    """Fill prefill entries that were not recorded with the next token's, in place; how many there were."""
    absent = ids == _MISSING
    partly = absent.any(axis=2) & ~absent.all(axis=2)
    holes = absent.all(axis=2)  # [T, L]
    for row in range(len(ids) - 1, -1, -1):
        for layer in np.flatnonzero(holes[row]):
            follows = row + 1 < len(ids) and turn[row + 1] == turn[row] and phase[row + 1] == PREFILL
            if not follows or phase[row] != PREFILL:
                raise UserError(f"{source.name} has no experts for row {row} of turn {turn[row]} in layer {layer}")
            ids[row, layer], weights[row, layer] = ids[row + 1, layer], weights[row + 1, layer]
    if partly.any():
        row, layer = np.argwhere(partly)[0]
        raise UserError(f"{source.name} lacks slots of row {row} of turn {turn[row]} in layer {layer}")
    return int(holes.sum())
