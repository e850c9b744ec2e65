"""Checks of every id and every score of a trace by compiled code, a chunk of rows at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.mapped import load, release
from traces.format.ranks import stored_absent
from traces.format.tensors import loaded_chunks
from traces.format.trace import SCORE_TABLES, ScoreTable, Trace

IDS_FAULTS = (
    "expert {value} is out of range for the geometry's num_experts",
    "expert {value} is listed twice: the experts of a row must differ",
    "expert {value} stands behind a rank without an expert: those must be last",
)
VALUE_FAULTS = (
    "the value is NaN: must be a number",
    "the value is {value}: must be finite",
    "the value {value} is negative: weights must be zero or more",
    "the value {value} is above the one before it: a ranked row must fall from best to last",
)
_NAN, _INFINITE, _NEGATIVE, _RISING = 1, 2, 3, 4


def check_rows(trace: Trace) -> None:
    """Check all ids, weights and scores.

    Raises: UserError naming tensor, row, layer and column of the first fault.
    """
    _scan_ids("topk_ids", trace.topk_ids, trace.num_experts, stored_absent(trace.topk_ids.dtype) if trace.fewer else -1)
    if trace.topk_weights is not None:
        if trace.fewer:
            _check_absent_weights(trace.topk_ids, trace.topk_weights)
        _scan_values("topk_weights", trace.topk_weights, nonnegative=True, falling=trace.ranked)
    for name in SCORE_TABLES:
        table: ScoreTable | None = getattr(trace, name)
        if table is None:
            continue
        # A router that masks whole groups may write -inf into the scores it chooses by, never into its logits.
        masked = name == "selection_scores"
        if table.ids is None or table.log_normalizer is None:
            _scan_values(name, table.values, allow_minus_infinity=masked)
        else:
            _scan_values(f"{name}.values", table.values, falling=True, allow_minus_infinity=masked)
            _scan_ids(f"{name}.ids", table.ids, trace.num_experts)
            _check_log_normalizer(f"{name}.log_normalizer", table.log_normalizer, table.values)


def _scan_ids(name: str, ids: NDArray[Any], num_experts: int, absent: int = -1) -> None:
    _scan(name, ids, lambda chunk: find_bad_id(chunk, num_experts, absent), IDS_FAULTS)


def _check_absent_weights(ids: NDArray[Any], weights: NDArray[Any]) -> None:
    """A rank without an expert has weight 0."""
    for start, chunk in loaded_chunks(weights):
        absent = load(ids[start : start + len(chunk)]) == stored_absent(ids.dtype)
        if (wrong := np.argwhere(absent & (chunk != 0))).size:
            row, layer, rank = wrong[0]
            raise UserError(
                f"Tensor 'topk_weights' at row {start + row}, layer {layer}, column {rank}: the value is "
                f"{chunk[row, layer, rank]}: must be 0 where topk_ids holds no expert"
            )
        release(ids[start : start + len(chunk)])


def _scan_values(
    name: str,
    values: NDArray[Any],
    nonnegative: bool = False,
    falling: bool = False,
    allow_minus_infinity: bool = False,
) -> None:
    half = values.dtype == np.float16
    unsigned = np.uint16 if half else np.uint32
    sign, infinity = (0x8000, 0x7C00) if half else (0x80000000, 0x7F800000)
    rules = (nonnegative, falling, allow_minus_infinity)
    _scan(name, values, lambda chunk: find_bad_value(chunk.view(unsigned), sign, infinity, *rules), VALUE_FAULTS)


def _scan(
    name: str, array: NDArray[Any], find: Callable[[NDArray[Any]], tuple[int, int, int, int]], faults: tuple[str, ...]
) -> None:
    for start, chunk in loaded_chunks(array):
        fault, row, layer, column = find(chunk)
        if fault:
            sentence = faults[fault - 1].format(value=chunk[row, layer, column])
            raise UserError(f"Tensor '{name}' at row {start + row}, layer {layer}, column {column}: {sentence}")


def _check_log_normalizer(name: str, log_normalizer: NDArray[np.float32], values: NDArray[Any]) -> None:
    """logsumexp over all experts is finite and cannot lie below the best listed logit."""
    for start, chunk in loaded_chunks(values):
        total = load(log_normalizer[start : start + len(chunk)])
        best = chunk[:, :, 0].astype(np.float32)
        slack = 1e-2 + 1e-3 * np.abs(best)  # values may be rounded to float16
        if (wrong := np.argwhere(~(np.isfinite(total) & (total >= best - slack)))).size:
            row, layer = wrong[0]
            raise UserError(
                f"Tensor '{name}' is {total[row, layer]} at row {start + row}, layer {layer}: must be finite and "
                f"at least {best[row, layer]}, the best listed value"
            )
        release(log_normalizer[start : start + len(chunk)])


@njit(cache=True)
def find_bad_id(ids: NDArray[Any], num_experts: int, absent: int) -> tuple[int, int, int, int]:
    """Where the first id outside 0..num_experts-1, repeated in its row, or behind `absent` is: (fault or 0, row, layer,
    column).

    `ids` [n, L, K] uint8|uint16; `absent`: the id of a rank without an expert, -1 where every rank has one.
    """
    rows, layers, columns = ids.shape
    for row in range(rows):
        for layer in range(layers):
            for column in range(columns):
                expert = ids[row, layer, column]
                if expert == absent:
                    continue
                if expert >= num_experts:
                    return 1, row, layer, column
                if column > 0 and ids[row, layer, column - 1] == absent:
                    return 3, row, layer, column
                for earlier in range(column):
                    if ids[row, layer, earlier] == expert:
                        return 2, row, layer, column
    return 0, 0, 0, 0


@njit(cache=True)
def find_bad_value(
    bits: NDArray[Any], sign: int, infinity: int, nonnegative: bool, falling: bool, allow_minus_infinity: bool
) -> tuple[int, int, int, int]:
    """Where the first NaN, infinite, negative or rising value is: (fault or 0, row, layer, column).

    `bits` [n, L, W] uint16|uint32 are the floats' own bits, `sign` and `infinity` the bits of those in that format.
    Bits rather than floats, because numba knows no float16: apart from the sign they order as the numbers do.
    """
    rows, layers, columns = bits.shape
    for row in range(rows):
        for layer in range(layers):
            previous = 0
            for column in range(columns):
                raw = int(bits[row, layer, column])
                magnitude = raw & (sign - 1)
                negative = (raw & sign) != 0
                if magnitude > infinity:
                    return _NAN, row, layer, column
                if magnitude == infinity and not (allow_minus_infinity and negative):
                    return _INFINITE, row, layer, column
                if nonnegative and negative and magnitude:
                    return _NEGATIVE, row, layer, column
                ordered = -magnitude if negative else magnitude
                if falling and column and ordered > previous:
                    return _RISING, row, layer, column
                previous = ordered
    return 0, 0, 0, 0
