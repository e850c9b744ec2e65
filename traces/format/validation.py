"""Checks of a trace, each with its own sentence: first sizes and request bounds, then every row by compiled code."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.ranks import stored_absent
from traces.format.tensors import trace_tensors
from traces.format.trace import (
    DECODE,
    NO_STEP,
    PREFILL,
    SCORE_TABLES,
    Geometry,
    ScoreTable,
    Trace,
    first_prompts,
    rows_left,
)

_IDS = (np.uint8, np.uint16)
_FLOATS = (np.float16, np.float32)
_COSINES_AT_ONCE = 1 << 20
_COSINE_STEP = 2e-3
"""What rounding to float16 and averaging may move a similarity."""
_DTYPES: dict[str, tuple[type, ...]] = {
    "topk_ids": _IDS,
    "topk_weights": _FLOATS,
    "request_offsets": (np.int64,),
    "prompt_len": (np.int32,),
    "phase": (np.uint8,),
    "token_ids": (np.int32,),
    "draft_counts": (np.uint8,),
    "expert_similarity": (np.float16,),
    **dict.fromkeys(SCORE_TABLES, _FLOATS),
    **{f"{name}.ids": _IDS for name in SCORE_TABLES},
    **{f"{name}.values": _FLOATS for name in SCORE_TABLES},
    **{f"{name}.log_normalizer": (np.float32,) for name in SCORE_TABLES},
}


def validate(trace: Trace, rows: bool = True) -> None:
    """Check geometry, dtypes, shapes and request bounds; with `rows` also every id, weight and score.

    Raises: UserError with one sentence about the first fault.
    """
    _check_geometry(trace.geometry)
    _check_dtypes(trace)
    _check_shapes(trace)
    _check_requests(trace)
    if not rows:
        return
    _check_similarity(trace)
    from traces.format.row_checks import check_rows

    check_rows(trace)


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_geometry(geometry: Geometry) -> None:
    if not isinstance(geometry.model, str) or not geometry.model:
        raise UserError(f"geometry.model={geometry.model!r}: must be a name")
    limits = {"num_layers": (1, 65535), "num_experts": (2, 65535), "top_k": (1, geometry.num_experts)}
    for name, (least, most) in limits.items():
        value = getattr(geometry, name)
        if not _is_integer(value, least, most):
            raise UserError(f"geometry.{name}={value!r}: must be an integer from {least} to {most}")
    for name, value in asdict(geometry).items():
        if value is None or name in limits or name == "model":
            continue
        if name in ("expert_bytes", "attention_bytes", "shared_bytes"):
            _check_per_layer(name, value, geometry.num_layers, least=1 if name == "expert_bytes" else 0)
        elif name == "weight_bits":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 64:
                raise UserError(f"geometry.weight_bits={value!r}: must be a number above 0 and up to 64, or null")
        elif not _is_integer(value, 0, 2**62):
            raise UserError(f"geometry.{name}={value!r}: must be an integer of zero or more, or null where unknown")


def _check_per_layer(name: str, value: object, num_layers: int, least: int) -> None:
    if not isinstance(value, tuple | list) or len(value) != num_layers:
        raise UserError(f"geometry.{name} must list one size for each of the {num_layers} MoE layers, or be null")
    if wrong := [entry for entry in value if not _is_integer(entry, least, 2**62)]:
        raise UserError(f"geometry.{name} holds {wrong[0]!r}: must be integers of at least {least}")


def _check_dtypes(trace: Trace) -> None:
    for name, array in trace_tensors(trace).items():
        allowed = _DTYPES[name]
        if array.dtype not in allowed:
            names = " or ".join(np.dtype(dtype).name for dtype in allowed)
            raise UserError(f"Tensor '{name}' has dtype {array.dtype.name}: must be {names}")


def _check_shapes(trace: Trace) -> None:
    layers, experts, top_k = trace.num_layers, trace.num_experts, trace.top_k
    if trace.topk_ids.ndim != 3 or trace.topk_ids.shape[1:] != (layers, top_k):
        raise UserError(
            f"Tensor 'topk_ids' has shape {trace.topk_ids.shape}: must be (tokens, {layers}, {top_k}) by the geometry"
        )
    if trace.fewer and experts > stored_absent(trace.topk_ids.dtype):
        raise UserError(
            f"Tensor 'topk_ids' has dtype {trace.topk_ids.dtype.name} for {experts} experts, whose largest number "
            "stands for no expert here: must be uint16 with fewer than 65536 experts"
        )
    rows = len(trace.topk_ids)
    if rows == 0:
        raise UserError("The trace has no rows: must have at least one token")
    wanted: dict[str, tuple[int, ...]] = {
        "topk_weights": (rows, layers, top_k), "token_ids": (rows,), "draft_counts": (rows, 2), "phase": (rows,)
    }  # fmt: skip
    for name, shape in wanted.items():
        array = getattr(trace, name)
        if array is not None and array.shape != shape:
            raise UserError(f"Tensor '{name}' has shape {array.shape}: must be {shape} to go with topk_ids")
    similarity = trace.expert_similarity
    if similarity is not None and similarity.shape != (layers, experts, experts):
        raise UserError(
            f"Tensor 'expert_similarity' has shape {similarity.shape}: must be {(layers, experts, experts)} "
            "by the geometry"
        )
    for name in SCORE_TABLES:
        table: ScoreTable | None = getattr(trace, name)
        if table is not None:
            _check_table_shape(name, table, rows, layers - name.startswith("lookahead"), experts, top_k)


def _check_table_shape(name: str, table: ScoreTable, rows: int, layers: int, experts: int, top_k: int) -> None:
    shape = table.values.shape
    if table.ids is None or table.log_normalizer is None:
        if shape != (rows, layers, experts):
            raise UserError(f"Tensor '{name}' has shape {shape}: must be {(rows, layers, experts)}")
        return
    if len(shape) != 3 or shape[:2] != (rows, layers) or not top_k < shape[2] <= experts:
        raise UserError(
            f"Tensor '{name}.values' has shape {shape}: must be ({rows}, {layers}, W) with {top_k} < W <= {experts}"
        )
    if table.ids.shape != shape:
        raise UserError(f"Tensor '{name}.ids' has shape {table.ids.shape}: must be {shape}, that of '{name}.values'")
    if table.log_normalizer.shape != shape[:2]:
        raise UserError(f"Tensor '{name}.log_normalizer' has shape {table.log_normalizer.shape}: must be {shape[:2]}")


def _check_similarity(trace: Trace) -> None:
    """Mean cosines: from -1 to 1, the same both ways, 1 of an expert with itself."""
    if trace.expert_similarity is None:
        return
    step = max(1, _COSINES_AT_ONCE // trace.num_experts)
    for layer, square in enumerate(trace.expert_similarity):
        for first in range(0, trace.num_experts, step):
            _check_cosines(layer, first, square)


def _check_cosines(layer: int, first: int, square: NDArray[Any]) -> None:
    """The rows from `first` on of one layer's similarities [E, E], as many as are looked at in one go."""
    step = max(1, _COSINES_AT_ONCE // len(square))
    cosines = square[first : first + step].astype(np.float32)
    mirrored = square[:, first : first + step].T.astype(np.float32)
    diagonal = np.arange(first, first + len(cosines))[:, None] == np.arange(len(square))
    checks = {
        "must be a number from -1 to 1": ~(np.abs(cosines) <= 1 + _COSINE_STEP),
        "must be the same both ways": ~(np.abs(cosines - mirrored) <= _COSINE_STEP),
        "must be 1, an expert's similarity to itself": diagonal & (np.abs(cosines - 1) > _COSINE_STEP),
    }
    for rule, wrong in checks.items():
        if wrong.any():
            row, column = (int(at[0]) for at in np.nonzero(wrong))
            raise UserError(
                f"Tensor 'expert_similarity' at layer {layer}, experts {first + row} and {column}: the value is "
                f"{cosines[row, column]}: {rule}"
            )


def _check_requests(trace: Trace) -> None:
    offsets, prompt_len, rows = trace.request_offsets, trace.prompt_len, trace.num_tokens
    if prompt_len.ndim != 1 or offsets.shape != (len(prompt_len) + 1,) or len(prompt_len) == 0:
        raise UserError(
            f"request_offsets {offsets.shape} and prompt_len {prompt_len.shape} do not go together: "
            "must be R+1 offsets and R prompt lengths for R >= 1 requests"
        )
    if offsets[0] != 0 or offsets[-1] != rows:
        raise UserError(f"request_offsets run from {offsets[0]} to {offsets[-1]}: must be from 0 to {rows} (the rows)")
    if (empty := np.flatnonzero(np.diff(offsets) <= 0)).size:
        at = int(empty[0])
        raise UserError(f"request_offsets do not rise at request {at}: {offsets[at]} is followed by {offsets[at + 1]}")
    if (negative := np.flatnonzero(prompt_len < 0)).size:
        raise UserError(f"prompt_len of request {negative[0]} is {prompt_len[negative[0]]}: must be zero or more")
    labels = trace.request_labels
    if labels is not None and len(labels) != len(prompt_len):
        raise UserError(f"request_labels has {len(labels)} entries for {len(prompt_len)} requests")
    _check_phases(trace)
    _check_drafts(trace)


def _check_phases(trace: Trace) -> None:
    """Every row has a phase, and no request more rows of its first prompt than this has tokens."""
    phase = trace.phase
    if (wrong := np.flatnonzero(phase > DECODE)).size:
        raise UserError(
            f"phase of row {wrong[0]} is {phase[wrong[0]]}: must be {PREFILL} (prefill) or {DECODE} (decode)"
        )
    prefill = first_prompts(trace, phase)
    if (wrong := np.flatnonzero(prefill > trace.prompt_len)).size:
        at = int(wrong[0])
        raise UserError(
            f"Request {at} begins with {prefill[at]} prefill rows but prompt_len={trace.prompt_len[at]}; "
            "prompt_len counts the tokens of its first prompt, recorded or not"
        )


def _check_drafts(trace: Trace) -> None:
    """No more drafts are accepted than were verified, and accepted ones are the rows that follow."""
    if trace.draft_counts is None:
        return
    drafted, accepted = trace.draft_counts.T.astype(np.int64)
    if (wrong := np.flatnonzero((accepted > drafted) | ((drafted == NO_STEP) & (accepted > 0)))).size:
        at = int(wrong[0])
        raise UserError(
            f"draft_counts of row {at} are {drafted[at]} drafts and {accepted[at]} accepted: must be no more accepted "
            f"than there are drafts, and 0 where {NO_STEP} stands for no step"
        )
    left = rows_left(trace)
    if (wrong := np.flatnonzero(accepted > left)).size:
        at = int(wrong[0])
        raise UserError(
            f"draft_counts of row {at} have {accepted[at]} accepted: must be at most {left[at]}, the rows that follow "
            "in the same request and phase, since an accepted draft is a row of the trace"
        )
