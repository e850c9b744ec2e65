"""From the cells of a table to a trace: layers, rows, ranks, turns, prompts; and what of it was concluded."""

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.ranks import stored_ids
from traces.format.trace import DECODE, PREFILL, ScoreTable, Trace, id_dtype
from traces.importers._columns import LAYER
from traces.importers._entries import Cells, Whole
from traces.importers._scores import router_logits
from traces.importers._sources import geometry_of
from traces.importers._tokens import POSITION, UNIT, gather_ranks, groups, name_of, set_positions, set_units
from traces.importers._turns import Turn, merge
from traces.importers._values import MISSING

FREE_CELLS, CELLS_PER_ENTRY = 1 << 20, 16
"""How much room tokens with missing layers may ask for: so many (token, layer, rank), or so many per entry."""


@dataclass(slots=True)
class Rows:
    """T rows in order of request, turn and position. `ids` and `weights` [T, L, K], ids -1 where there is no expert."""

    unit: Whole
    turn: Whole
    position: Whole
    phase: Whole
    token_id: Whole
    ids: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None

    def take(self, chosen: NDArray[Any]) -> "Rows":
        """The chosen rows."""
        return Rows(
            self.unit[chosen],
            self.turn[chosen],
            self.position[chosen],
            self.phase[chosen],
            self.token_id[chosen],
            self.ids[chosen],
            None if self.weights is None else self.weights[chosen],
            None if self.scores is None else self.scores[chosen],
        )


def assemble(
    cells: Cells, options: argparse.Namespace, provenance: dict[str, Any], best_first: bool, from_zero: bool = False
) -> Trace:
    """The trace of the cells of a table; notes on what was concluded go into the provenance.

    `best_first`: ranks stand for merit. `from_zero`: tokens are known to be numbered from 0.

    Raises: UserError for cells that make no trace.
    """
    notes: list[str] = provenance.setdefault("notes", [])
    cells = set_units(cells)
    cells = _moe_layers(cells, options.dense_layers or (), provenance)
    cells = gather_ranks(cells, options.top_k, notes)
    cells = set_positions(cells, notes)
    num_experts = _num_experts(cells, options.num_experts, notes)
    rows = _rows(cells, options.allow_missing, notes)
    first = rows.position[np.flatnonzero(np.diff(rows.unit, prepend=-1))]
    if not from_zero and (first == 1).all() and options.prompt_len != (1,):
        notes.append("Tokens are numbered from 1.")
        rows.position = rows.position - 1
    return finish(rows, cells.names, num_experts, options, provenance, best_first)


def finish(
    rows: Rows,
    names: tuple[Any, ...],
    num_experts: int,
    options: argparse.Namespace,
    provenance: dict[str, Any],
    best_first: bool,
) -> Trace:
    """The trace of rows whose requests are called `names`. Raises: UserError for rows that make none."""
    notes: list[str] = provenance.setdefault("notes", [])
    rows = _one_context(rows, names, notes)
    rows, prompt_len, starts = _prompts(rows, names, options, notes)
    ranked = best_first or options.ranked or rows.weights is not None
    ids, weights = _sorted(rows.ids, rows.weights)
    fewer = bool((ids < 0).any())
    if fewer:
        short, cells = int((ids < 0).any(-1).sum()), ids.shape[0] * ids.shape[1]
        notes.append(f"{short} of {cells} cells of (token, layer) have fewer than {ids.shape[2]} experts.")
    if not ranked:
        notes.append("The order of ids within a row is not known to be best first.")
    logits, function = (None, None) if rows.scores is None else router_logits(rows.scores, ids, weights, notes)
    labels = [name_of(names, unit) for unit in rows.unit[starts[:-1]].tolist()]
    return Trace(
        geometry=geometry_of(options, ids.shape[1], num_experts, ids.shape[2]),
        topk_ids=stored_ids(ids, num_experts) if fewer else ids.astype(id_dtype(num_experts)),
        topk_weights=weights,
        router_logits=None if logits is None else ScoreTable(logits),
        score_function=function,
        request_offsets=starts.astype(np.int64),
        prompt_len=prompt_len,
        phase=rows.phase.astype(np.uint8),
        token_ids=_token_ids(rows),
        ranked=ranked,
        fewer=fewer,
        provenance=provenance | {"requests": labels if len(labels) <= 1000 else len(labels)},
    )


def _moe_layers(cells: Cells, declared: tuple[int, ...], provenance: dict[str, Any]) -> Cells:
    """With layers counted from 0, those without experts left out; the provenance says what the source calls them.

    Raises: UserError where there is no other layer.
    """
    notes = provenance["notes"]
    layer = cells.of[LAYER]
    found, index = np.unique(layer, return_inverse=True)
    of_entry = np.repeat(index, cells.counts)
    most = np.full(len(found), MISSING)
    np.maximum.at(most, of_entry, cells.expert)
    several = np.bincount(of_entry, cells.rank > 0, len(found)) > 0
    if cells.scalar and (cells.rank == MISSING).all():
        several = np.bincount(of_entry, minlength=len(found)) > 1
    dense = (most == MISSING) | ((most == 0) & several)
    inferred = [int(number) for number in found[dense] if number not in declared]
    moe = ~dense & ~np.isin(found, declared)
    if not moe.any():
        raise UserError(f"{cells.source.rpartition(' ')[0]} has no layer with experts")
    if inferred:
        notes.append(f"{_layers(inferred)} without experts (all ids are 0 or -1), and left out.")
    if declared:
        notes.append(f"{_layers(list(declared))} without experts, as --dense-layers says.")
    numbers = found[moe].tolist()
    if numbers != list(range(len(numbers))):
        absent = sorted(set(range(numbers[-1])) - set(found.tolist()) - set(declared))
        named = f"; {_layers(absent)} not in the file, and taken for dense" if absent and len(absent) < 65 else ""
        if absent == [0]:
            named = "; layer 0 is not in the file: dense, or layers are numbered from 1"
        notes.append(f"The {len(numbers)} MoE layers of the trace are layers {_spans(numbers)} of the source{named}.")
    cells = replace(cells, of=cells.of | {LAYER: (np.cumsum(moe) - 1)[index]})
    return cells if moe.all() else cells.take(moe[index])


def _layers(numbers: list[int]) -> str:
    return f"Layer {numbers[0]} is" if len(numbers) == 1 else f"Layers {_spans(numbers)} are"


def _spans(numbers: list[int]) -> str:
    """Numbers in short: 1-3, 7."""
    array = np.array(numbers)
    parts = np.split(array, np.flatnonzero(np.diff(array) != 1) + 1)
    spans = [f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts]
    return ", ".join(spans if len(spans) <= 8 else [*spans[:7], f"... ({len(numbers)} in all)"])


def _num_experts(cells: Cells, claim: int | None, notes: list[str]) -> int:
    """How many experts a layer has. Raises: UserError for ids beyond."""
    largest = int(cells.expert.max())
    scored = 0 if cells.scores is None else cells.scores.shape[1]
    if claim is None and scored:
        claim = scored
    if claim is None:
        notes.append(
            f"The number of experts is not in the file: {max(2, largest + 1)} is the least that there can be; say how "
            "many with --num-experts."
        )
        return max(2, largest + 1)
    if scored not in (0, claim):
        raise UserError(f"{cells.where(0)} and later have {scored} scores for {claim} experts: must be one for each")
    if largest >= claim:
        at = int(np.repeat(np.arange(len(cells.number)), cells.counts)[np.argmax(cells.expert >= claim)])
        raise UserError(f"{cells.where(at)}: expert={largest}: must be an integer from 0 to {claim - 1}")
    return claim


def _rows(cells: Cells, allow_missing: bool, notes: list[str]) -> Rows:
    """The cells as rows of layers and ranks. Raises: UserError for layers that a token lacks."""
    of = cells.of
    row = groups(of[UNIT], of["turn"], of[POSITION])
    first = np.unique(row, return_index=True)[1]
    num_rows, num_layers, width = len(first), int(of[LAYER].max()) + 1, int(cells.counts.max())
    if len(row) != num_rows * num_layers:
        _check_missing(cells, row, num_rows, num_layers, width, allow_missing)
        notes.append(
            f"{num_rows * num_layers - len(row)} cells of (token, layer) are not in the file: no expert was used there."
        )
    if (other := of["phase"] != of["phase"][first][row]).any():
        at = int(np.argmax(other))
        raise UserError(f"{cells.where(at)}: the phase of a token must be the same in all layers")
    entry = np.repeat(np.arange(len(row)), cells.counts)
    place = (row[entry], of[LAYER][entry], cells.rank)
    ids = np.full((num_rows, num_layers, width), MISSING, np.int32)
    ids[place] = cells.expert
    _check_different(cells, ids)
    weights, scores = None, None
    if cells.weight is not None:
        weights = np.zeros(ids.shape, np.float32)
        weights[place] = np.where(cells.expert == MISSING, 0, cells.weight)
        if (cells.weight < 0).any():
            wrong = int(np.argmax(cells.weight < 0))
            raise UserError(f"{cells.where(int(entry[wrong]))}: weight={cells.weight[wrong]}: must be zero or more")
    if cells.scores is not None:
        scores = np.zeros((num_rows, num_layers, cells.scores.shape[1]), np.float32)
        scores[row, of[LAYER]] = cells.scores
    unit, turn, position, phase, token_id = (of[role][first] for role in (UNIT, "turn", POSITION, "phase", "token_id"))
    return Rows(unit, turn, position, phase, token_id, ids, weights, scores)


def _check_missing(cells: Cells, row: Whole, num_rows: int, num_layers: int, width: int, allowed: bool) -> None:
    counts = np.bincount(row, minlength=num_rows)
    at = int(np.argmax(counts < num_layers))
    if allowed and num_rows * num_layers * width <= max(FREE_CELLS, CELLS_PER_ENTRY * len(cells.expert)):
        return
    mine = np.flatnonzero(row == at)
    absent = int(np.setdiff1d(np.arange(num_layers), cells.of[LAYER][mine])[0])
    token = f"token {cells.of[POSITION][mine[0]]}{_of_request(cells.names, int(cells.of[UNIT][mine[0]]))}"
    source = cells.source.rpartition(" ")[0]
    raise UserError(
        f"{source} has {len(row)} cells for {num_rows} tokens of {num_layers} layers: {token} has none of MoE layer "
        f"{absent}; where a token may lack a layer, --allow-missing takes it for one without experts"
    )


def _of_request(names: tuple[Any, ...], unit: int) -> str:
    return f" of request {name_of(names, unit)!r}" if names else ""


def _check_different(cells: Cells, ids: NDArray[np.int32]) -> None:
    """The experts of a cell differ. Raises: UserError naming the cell."""
    ordered = np.sort(ids, axis=-1)
    again = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] != MISSING)).any(-1)
    if again.any():
        row, layer = (int(value[0]) for value in np.nonzero(again))
        of = cells.of
        at = int(np.flatnonzero((groups(of[UNIT], of["turn"], of[POSITION]) == row) & (of[LAYER] == layer))[0])
        raise UserError(f"{cells.where(at)}: an expert is listed twice in {ids[row, layer].tolist()}: must differ")


def _one_context(rows: Rows, names: tuple[Any, ...], notes: list[str]) -> Rows:
    """The turns of each request behind one another, what they repeat left out."""
    turn_starts = np.flatnonzero(np.diff(groups(rows.unit, rows.turn), prepend=-1))
    units = rows.unit[turn_starts]
    if len(np.unique(units)) == len(units):
        return rows
    keep, position = np.ones(len(rows.unit), bool), rows.position.copy()
    dropped = merged = 0
    bounds = np.append(turn_starts, len(rows.unit))
    firsts = np.flatnonzero(np.diff(units, prepend=-1))
    for begin, end in zip(firsts, np.append(firsts[1:], len(units)), strict=True):
        if end - begin == 1:
            continue
        spans = [slice(int(bounds[at]), int(bounds[at + 1])) for at in range(begin, end)]
        name = f"request {name_of(names, int(units[begin]))!r}"
        turns = [Turn(rows.position[span], rows.ids[span]) for span in spans]
        kept, positions, repeated = merge(turns, name)
        for span, chosen, numbers in zip(spans, kept, positions, strict=True):
            keep[span], position[span] = chosen, numbers
        dropped, merged = dropped + repeated, merged + len(spans)
    notes.append(
        f"{merged} turns are one request per dialogue, with one context; {dropped} rows that repeat it are left out."
    )
    rows.position = position
    return rows.take(keep)


def _prompts(
    rows: Rows, names: tuple[Any, ...], options: argparse.Namespace, notes: list[str]
) -> tuple[Rows, NDArray[np.int32], Whole]:
    """Rows with their phases, the prompt's length of each request, and where requests begin, [R+1].

    Raises: UserError for tokens that are missing between others, and phases that --prompt-len contradicts.
    """
    rows = rows.take(_computed(rows, notes))
    starts = np.flatnonzero(np.diff(rows.unit, prepend=-1))
    bounds = np.append(starts, len(rows.unit))
    lengths = np.diff(bounds)
    gaps = np.diff(rows.position) != 1
    gaps[starts[1:] - 1] = False
    if gaps.any():
        at = int(np.argmax(gaps))
        raise UserError(
            f"token {rows.position[at]}{_of_request(names, int(rows.unit[at]))} is followed by token "
            f"{rows.position[at + 1]}: the tokens of a request must follow each other"
        )
    first = rows.position[starts]
    claim = _claimed(options.prompt_len, len(starts))
    told = (rows.phase != MISSING).all()
    if options.decode_only or (told and (rows.phase == DECODE).all()):
        rows.phase = np.full(len(rows.phase), DECODE)
        prompt_len = first if claim is None else claim
        if claim is not None and (wrong := np.flatnonzero((first != 0) & (first != claim))).size:
            at = int(wrong[0])
            raise UserError(f"--prompt-len={claim[at]}: must be {first[at]}, the first token of request {at}")
    elif not told:
        prompt = np.zeros(len(starts), np.int64) if claim is None else claim
        rows.phase = np.where(rows.position < np.repeat(prompt, lengths), PREFILL, DECODE)
        prompt_len = np.maximum(first, prompt)
        if claim is not None and (claim > first + lengths).any():
            at = int(np.argmax(claim > first + lengths))
            raise UserError(
                f"--prompt-len={claim[at]}: must be at most {(first + lengths)[at]}, the tokens of request {at}"
            )
        if claim is None and not first.any():
            notes.append(
                "The prompts' lengths are unknown: every row counts as decode; --prompt-len says where it begins."
            )
    else:
        decodes = np.append(np.flatnonzero(rows.phase == DECODE), len(rows.phase))
        prefills = np.minimum(decodes[np.searchsorted(decodes, starts)], bounds[1:]) - starts
        prompt_len = first + prefills
        if claim is not None and (claim != prompt_len).any():
            at = int(np.argmax(claim != prompt_len))
            raise UserError(f"--prompt-len={claim[at]}: the phases of request {at} say {prompt_len[at]}")
    _note_contexts(rows, starts, first, prompt_len, notes)
    return rows, prompt_len.astype(np.int32), bounds


def _computed(rows: Rows, notes: list[str]) -> NDArray[np.bool_]:
    """Rows [T] but those at the beginning of a request that hold no expert at all: a cached prefix."""
    absent = (rows.ids == MISSING).all(axis=(1, 2))
    if not absent.any():
        return np.ones(len(absent), bool)
    starts = np.flatnonzero(np.diff(rows.unit, prepend=-1))
    held = np.maximum.accumulate(np.where(~absent, np.arange(len(absent)), -1))
    begun = held >= np.repeat(starts, np.diff(starts, append=len(absent)))
    if not begun.any() or len(np.unique(rows.unit[begun])) != len(starts):
        raise UserError("a request holds no expert in any row: must have some")
    if not begun.all():
        notes.append(f"{int((~begun).sum())} rows of -1 begin requests: a cached prefix, which is not computed.")
    return np.asarray(begun, bool)


def _claimed(claim: tuple[int, ...] | None, requests: int) -> Whole | None:
    if claim is None:
        return None
    if len(claim) not in (1, requests):
        raise UserError(f"--prompt-len has {len(claim)} lengths for {requests} requests: must be one or all")
    if max(claim) >= 2**31:
        raise UserError(f"--prompt-len={max(claim)}: must be below {2**31}")
    return np.array(claim * (requests if len(claim) == 1 else 1), np.int64)


def _note_contexts(rows: Rows, starts: Whole, first: Whole, prompt_len: Whole, notes: list[str]) -> None:
    """Says which requests begin with tokens that have no rows."""
    decode_only = rows.phase[starts] == DECODE
    if decode_only.any() and prompt_len[decode_only].any():
        lengths = np.unique(prompt_len[decode_only])
        named = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        notes.append(
            f"{int(decode_only.sum())} requests are decode only: their context begins with {named} tokens of prompt."
        )
    if (cached := first[~decode_only]).any():
        notes.append(
            f"{int((cached > 0).sum())} prompts begin with up to {cached.max()} tokens that were not computed."
        )


def _sorted(
    ids: NDArray[np.int32], weights: NDArray[np.float32] | None
) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    """Best first by weight, else as they were; ranks without an expert last."""
    absent = ids < 0
    if weights is None:
        if not absent.any():
            return ids, None
        order = np.argsort(absent, axis=-1, kind="stable")
        return np.take_along_axis(ids, order, -1), None
    order = np.argsort(np.where(absent, np.inf, -weights), axis=-1, kind="stable")
    return np.take_along_axis(ids, order, -1), np.take_along_axis(weights, order, -1)


def _token_ids(rows: Rows) -> NDArray[np.int32] | None:
    """Tokens of the rows where all are known."""
    found = rows.token_id
    return found.astype(np.int32) if (found >= 0).all() and (found < 2**31).all() else None
