"""Which token of which request a cell of a table belongs to, told by its columns or by the order of the file."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL
from traces.importers._columns import LAYER
from traces.importers._entries import Cells, Whole
from traces.importers._values import MISSING

UNIT, POSITION = "unit", "position"


def groups(*keys: Whole) -> Whole:
    """The number of each row's group of equal keys [n], groups in the order of their keys, the first key first."""
    order = np.lexsort(keys[::-1])
    changed = np.zeros(len(order), np.int64)
    for key in keys:
        changed[1:] |= key[order][1:] != key[order][:-1]
    found = np.empty(len(order), np.int64)
    found[order] = np.cumsum(changed)
    return found


def _runs(*keys: Whole) -> NDArray[np.bool_]:
    """Where a run of equal keys begins, in the order of the file."""
    begins = np.ones(len(keys[0]), bool)
    begins[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return begins


def known(cells: Cells, role: str) -> bool:
    """Whether a column says so for every cell. Raises: UserError where it does for some."""
    values = cells.of[role]
    if (absent := values == MISSING).all():
        return False
    if absent.any():
        raise UserError(f"{cells.where(int(np.argmax(absent)))} has no {role}: must be in all lines or in none")
    return True


def set_units(cells: Cells) -> Cells:
    """With UNIT, what becomes one request (a dialogue, a request, or all of it), and its turns."""
    of = dict(cells.of)
    nothing = np.zeros_like(cells.number)
    dialogue, request = known(cells, "dialogue"), known(cells, "request")
    of[UNIT] = of["dialogue"] if dialogue else of["request"] if request else nothing
    if not known(cells, "turn"):
        of["turn"] = of["request"] if dialogue and request else nothing
    return replace(cells, of=of)


def gather_ranks(cells: Cells, top_k: int | None, notes: list[str]) -> Cells:
    """Of a table with a row per rank, cells with all ranks of a token in a layer; other tables as they are.

    Raises: UserError where the experts of a cell cannot be told from those of the next.
    """
    if not cells.scalar:
        return cells
    ranked = bool((cells.rank != MISSING).any())
    of = cells.of
    if not known(cells, "token"):
        count = _width(cells, ranked, top_k, notes)
        cell = np.arange(len(cells.number)) // count
    else:
        keys = [of[UNIT], of["turn"], of["step"], of["token"], of[LAYER]]
        restart = _restarts(of, cells) if len(np.unique(of[UNIT])) == 1 else np.zeros_like(cells.number)
        if restart.any():
            of = of | {UNIT: restart}
            keys[0] = restart
            notes.append(
                f"No column names requests: token numbers that begin again tell {int(restart.max()) + 1} of them apart."
            )
        cell = groups(*keys)
    order = np.lexsort((cells.rank, cell))
    cell, rank = cell[order], cells.rank[order]
    first = np.flatnonzero(_runs(cell))
    if ranked and (again := (np.diff(cell) == 0) & (np.diff(rank) == 0)).any():
        at = int(np.argmax(again))
        raise UserError(
            f"{cells.where(int(order[at + 1]))} gives {_place(cells, int(order[at + 1]))}, rank {rank[at]} "
            "a second time"
        )
    weight = None if cells.weight is None else cells.weight[order]
    counts = np.diff(first, append=len(cell))
    within = np.arange(len(cell)) - np.repeat(first, counts)
    if ranked and (gaps := rank - rank.min() != within).any():
        at = int(np.argmax(gaps))
        raise UserError(
            f"{cells.where(int(order[at]))} gives {_place(cells, int(order[at]))}, rank {rank[at]}, and rank "
            f"{rank.min() + within[at]} is missing"
        )
    return Cells(
        {role: values[order][first] for role, values in of.items()},
        cells.number[order][first],
        cells.sub[order][first],
        counts,
        within,
        cells.expert[order],
        weight,
        None if cells.scores is None else cells.scores[order][first],
        False,
        cells.names,
        cells.source,
    )


def _restarts(of: dict[str, Whole], cells: Cells) -> Whole:
    """Where all is one request: its number [n] by tokens that begin again, 0 everywhere where no token comes twice."""
    nothing = np.zeros_like(cells.number)
    entry = cells.rank if (cells.rank != MISSING).any() else cells.expert
    keys = (of["turn"], of["step"], of["token"], of[LAYER], entry)
    if groups(*keys).max() + 1 == len(cells.number):
        return nothing
    token, layer = of["token"], of[LAYER]
    falls = np.zeros(len(token), np.int64)
    falls[1:] = (token[1:] < token[:-1]) & (layer[1:] <= layer[:-1]) & (token[1:] == token.min())
    return np.cumsum(falls)


def _width(cells: Cells, ranked: bool, top_k: int | None, notes: list[str]) -> int:
    """Experts per cell of a table that numbers no tokens."""
    begins = np.flatnonzero(_runs(*(cells.of[role] for role in (UNIT, "turn", "step", LAYER))))
    lengths = np.diff(begins, append=len(cells.number))
    if ranked:
        width = len(np.unique(cells.rank))
    elif top_k is not None:
        width = top_k
    elif len(lengths) == 1:
        raise UserError("no column numbers tokens or ranks and there is one layer: say with --top-k how many experts")
    else:
        width = int(lengths.min())
        notes.append(
            f"No column numbers tokens or ranks: {width} experts per token are the shortest run of a layer; "
            "--top-k says otherwise."
        )
    if (wrong := np.flatnonzero(lengths % width)).size:
        at = int(wrong[0])
        raise UserError(
            f"{cells.where(int(begins[at]))} begins {lengths[at]} rows of layer {cells.of[LAYER][begins[at]]}, which "
            f"are not a whole number of tokens of {width} experts: say with --top-k how many a token has"
        )
    return width


def _place(cells: Cells, at: int) -> str:
    """Which token and layer a cell is of, for errors."""
    unit, token = int(cells.of[UNIT][at]), int(cells.of["token"][at])
    name = f"request {cells.names[unit]!r}, " if unit < len(cells.names) else ""
    return f"{name}{f'token {token}, ' if token != MISSING else ''}layer {cells.of[LAYER][at]}"


def set_positions(cells: Cells, notes: list[str]) -> Cells:
    """With POSITION in the context of its request, and the phase where the sizes of forward passes tell it.

    A column of tokens numbers them in the request, or where numbers come again with every step in the step; without
    one the order of the file does. Raises: UserError for cells that come twice.
    """
    of = dict(cells.of)
    stepped, numbered = known(cells, "step"), known(cells, "token")
    base = (of[UNIT], of["turn"])
    passes: Whole | None = of["step"] if stepped else None
    if numbered:
        token = of["token"] + cells.sub
        within = groups(*base, token)
        if not stepped or groups(*base, token, of["step"]).max() == within.max():
            of[POSITION] = token
        else:
            of[POSITION] = _from_zero(groups(*base, of["step"], token), groups(*base))
    else:
        if passes is None and len(np.unique(of[LAYER])) > 1:
            passes = _inferred_passes(of)
        one = np.zeros_like(cells.number) if passes is None else passes
        token = _counted(groups(*base, one, of[LAYER]))
        of[POSITION] = _from_zero(groups(*base, one, token), groups(*base))
    _check_twice(cells, of)
    if passes is not None and not known(cells, "phase"):
        _phases_of_passes(of, passes, cells, notes)
    return replace(cells, of=of)


def _from_zero(group: Whole, within: Whole) -> Whole:
    """Numbers of groups, counted from 0 inside each of `within`."""
    least = np.full(int(within.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, within, group)
    return np.asarray(group - least[within], np.int64)


def _counted(group: Whole) -> Whole:
    """How many of its group lie before each."""
    order = np.argsort(group, kind="stable")
    begins = np.flatnonzero(_runs(group[order]))
    found = np.empty(len(group), np.int64)
    found[order] = np.arange(len(group)) - np.repeat(begins, np.diff(begins, append=len(group)))
    return found


def _inferred_passes(of: dict[str, Whole]) -> Whole:
    """Number of the forward pass of each cell: layers rise in a pass, and the next begins where they fall.

    Whether a layer's cells lie together or a token's do: a pass over several tokens holds them layer by layer.
    """
    order = np.lexsort((of["turn"], of[UNIT]))  # stable: the order of the file within each
    unit, turn, layer = (of[role][order] for role in (UNIT, "turn", LAYER))
    new = np.zeros(len(order), np.int64)
    new[1:] = (unit[1:] != unit[:-1]) | (turn[1:] != turn[:-1]) | (layer[1:] < layer[:-1])
    found = np.empty(len(order), np.int64)
    found[order] = np.cumsum(new)
    return found


def _phases_of_passes(of: dict[str, Whole], passes: Whole, cells: Cells, notes: list[str]) -> None:
    """A pass over several tokens is prefill, one over a token decode; without requests in the file, prompts are."""
    row = groups(of[UNIT], of["turn"], passes, of[POSITION])
    first = np.unique(row, return_index=True)[1]  # a cell of each (pass, token), in order
    group = groups(of[UNIT], of["turn"], passes)[first]
    sizes = np.bincount(group)
    if sizes.max() == 1:
        return
    phase_of_pass = np.where(sizes > 1, PREFILL, DECODE)
    of["phase"] = phase_of_pass[group][row]
    notes.append("No column names phases: passes over several tokens count as prefill, those over one as decode.")
    if known(cells, "request") or known(cells, "dialogue") or known(cells, "turn"):
        return
    request = np.cumsum(np.diff(phase_of_pass, prepend=PREFILL) < 0).astype(np.int64)[group][row]
    if request.max():
        of[UNIT] = request
        of[POSITION] = _from_zero(of[POSITION], request) if not known(cells, "token") else of[POSITION]
        notes.append(f"No column names requests: each of {int(request.max()) + 1} prompts begins one.")


def _check_twice(cells: Cells, of: dict[str, Whole]) -> None:
    cell = groups(of[UNIT], of["turn"], of[POSITION], of[LAYER])
    if int(cell.max()) + 1 == len(cell):
        return
    order = np.argsort(cell, kind="stable")
    at = int(order[1:][np.diff(cell[order]) == 0].min())
    raise UserError(f"{cells.where(at)} gives {_place(cells, at)} a second time")


def name_of(names: tuple[Any, ...], unit: int) -> Any:
    """What a request is called in the source, else its number."""
    return names[unit] if unit < len(names) else unit
