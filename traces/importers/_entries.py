"""A table of routing as one entry per (token, layer, rank), in the order of the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.importers._columns import EXPERT, LAYER, Layout, plain_name
from traces.importers._tables import Batch, Table
from traces.importers._values import MISSING, Lists, Where, integers, layers, lists, numbers, phases

Whole = NDArray[np.int64]
OF_CELL = ("request", "dialogue", "turn", "step", "token", LAYER, "phase", "token_id")
COLUMN_WORDS = {EXPERT: "expert", "weights": "weight"}


@dataclass(slots=True)
class Cells:
    """C cells in the order of the file: the experts of a token in a layer, or one of them in a table with a rank each.

    `of` [C] by role, MISSING where unknown: request and dialogue are numbers by order of appearance. `number`: where it
    stands in the file; `sub`: which token of its record; `counts` [C]: its entries, which lie one after the other in
    `rank`, `expert` and `weight` [N]. `scores` [C, E].
    """

    of: dict[str, Whole]
    number: Whole
    sub: Whole
    counts: Whole
    rank: Whole
    expert: Whole
    weight: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    scalar: bool
    names: tuple[Any, ...]
    """Name of each request, or dialogue where there are some."""
    source: str
    """The file and what its rows are called: `where` puts the number behind."""

    def where(self, at: int) -> str:
        """Where a cell stands, for errors."""
        return f"{self.source} {self.number[at]}"

    def take(self, chosen: NDArray[np.bool_]) -> "Cells":
        """The chosen cells."""
        entries = np.repeat(chosen, self.counts)
        return Cells(
            {role: values[chosen] for role, values in self.of.items()},
            self.number[chosen],
            self.sub[chosen],
            self.counts[chosen],
            self.rank[entries],
            self.expert[entries],
            None if self.weight is None else self.weight[entries],
            None if self.scores is None else self.scores[chosen],
            self.scalar,
            self.names,
            self.source,
        )


@dataclass(slots=True)
class Reader:
    """Reads a table by its layout, batch by batch."""

    path: Path
    table: Table
    layout: Layout
    only: Mapping[str, str] = field(default_factory=dict)
    must: Mapping[str, str] = field(default_factory=dict)
    _codes: dict[str, dict[Any, int]] = field(default_factory=lambda: {"request": {}, "dialogue": {}})

    def read(self) -> Cells:
        """All cells. Raises: UserError for a value that is none of its kind, with its line."""
        columns = [name for names in self.layout.columns.values() for name in names]
        columns += [name for name in (*self.only, *self.must) if name in self.table.names and name not in columns]
        chosen = map(self._chosen, self.table.batches(columns))
        parts = [self._cells(batch) for batch in chosen if len(batch.numbers)]
        if not parts:
            raise UserError(f"{self.path.name} has no rows")
        if len({part.scalar for part in parts}) > 1:
            raise UserError(f"{self.path.name}: experts must be numbers or lists, in all rows the same")
        for name in ("weight", "scores"):
            if len({getattr(part, name) is None for part in parts}) > 1:
                raise UserError(f"{self.path.name}: {name}s must be in all rows or in none".replace("ss ", "s "))
        if len({part.scores.shape[1] for part in parts if part.scores is not None}) > 1:
            raise UserError(f"{self.path.name}: scores must be as many in all rows")
        names = self._codes["dialogue"] or self._codes["request"]
        return Cells(
            {role: np.concatenate([part.of[role] for part in parts]) for role in parts[0].of},
            _joined(parts, "number"),
            _joined(parts, "sub"),
            _joined(parts, "counts"),
            _joined(parts, "rank"),
            _joined(parts, "expert"),
            _joined_floats(parts, "weight"),
            _joined_floats(parts, "scores"),
            parts[0].scalar,
            tuple(names),
            parts[0].source,
        )

    def _chosen(self, batch: Batch) -> Batch:
        """The rows that count. Raises: UserError for a value that the format does not have."""
        for name, value in self.must.items():
            wrong = [at for at, found in enumerate(batch.columns.get(name, ())) if found != value]
            if wrong:
                at, found = batch.numbers[wrong[0]], batch.columns[name][wrong[0]]
                raise UserError(f"{self.path.name} {self.table.unit} {at}: {name}={found!r}: must be {value!r}")
        for name, value in self.only.items():
            if name in batch.columns:
                kept = [at for at, found in enumerate(batch.columns[name]) if found == value]
                columns = {
                    column: values[kept] if isinstance(values, np.ndarray) else [values[at] for at in kept]
                    for column, values in batch.columns.items()
                }
                batch = Batch(batch.numbers[kept], columns)
        return batch

    def _cells(self, batch: Batch) -> Cells:
        def where(at: int) -> str:
            return f"{self.path.name} {self.table.unit} {batch.numbers[at]}"

        found = self._lists(batch, EXPERT, where)
        assert found is not None

        def of_record(at: int) -> str:
            return where(int(np.repeat(found.owner, found.counts)[at]))

        expert = integers(found.flat, of_record, "expert", 0, 65534, none_is_minus_one=True)
        weight, scores = self._floats(batch, found, where)
        begins = np.cumsum(found.counts) - found.counts
        rank = np.arange(len(expert)) - np.repeat(begins, found.counts)
        if found.scalar:
            rank = self._ranks(batch, where, len(rank))
        of = {role: self._of_record(batch, role, where)[found.owner] for role in OF_CELL}
        number = batch.numbers[found.owner]
        source = f"{self.path.name} {self.table.unit}"
        return Cells(of, number, found.sub, found.counts, rank, expert, weight, scores, found.scalar, (), source)

    def _ranks(self, batch: Batch, where: Where, count: int) -> Whole:
        for role in ("rank", "slot"):
            if self.layout.has(role):
                return integers(batch.columns[self.layout.columns[role][0]], where, role, 0, 65535)
        return np.full(count, MISSING)

    def _lists(self, batch: Batch, role: str, where: Where) -> Lists | None:
        """What each record lists; columns for each rank are one list."""
        if not self.layout.has(role):
            return None
        names = self.layout.columns[role]
        if len(names) == 1:
            return lists(batch.columns[names[0]], where, COLUMN_WORDS[role])
        columns = [list(batch.columns[name]) for name in names]
        one = np.arange(len(batch.numbers))
        flat = [value for row in zip(*columns, strict=True) for value in row]
        return Lists(flat, np.full(len(one), len(names)), one, np.zeros_like(one))

    def _floats(
        self, batch: Batch, found: Lists, where: Where
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Weights of the entries, and scores of all experts in the cells; a list that is longer holds scores."""
        weight = self._lists(batch, "weights", where)
        if weight is None or _is_empty(weight.flat):
            return None, self._scores(batch, found, where)
        owner = np.repeat(weight.owner, weight.counts)
        values = numbers(weight.flat, lambda at: where(int(owner[at])), "weight")
        if len(weight.counts) == len(found.counts) and (weight.counts == found.counts).all():
            return values, self._scores(batch, found, where)
        at = int(np.argmax(weight.counts[: len(found.counts)] != found.counts[: len(weight.counts)]))
        raise UserError(
            f"{where(int(weight.owner[at]))} has {weight.counts[at]} weights for {found.counts[at]} experts: must be "
            "one per expert; scores of all experts are named with --scores"
        )

    def _scores(self, batch: Batch, found: Lists, where: Where) -> NDArray[np.float32] | None:
        if not self.layout.has("scores"):
            return None
        listed = lists(batch.columns[self.layout.columns["scores"][0]], where, "scores")
        if listed.scalar or _is_empty(listed.flat):
            return None
        if len(listed.counts) != len(found.counts) or (listed.counts != listed.counts[0]).any():
            raise UserError(f"{where(0)} and later: scores must be a list per cell, of the same length everywhere")
        owner = np.repeat(listed.owner, listed.counts)
        values = numbers(listed.flat, lambda at: where(int(owner[at])), "scores")
        return None if values is None else values.reshape(len(found.counts), -1)

    def _of_record(self, batch: Batch, role: str, where: Where) -> Whole:
        if not self.layout.has(role):
            return np.full(len(batch.numbers), MISSING)
        column = self.layout.columns[role][0]
        values = batch.columns[column]
        if role in self._codes:
            return self._keys(role, values, where, column)
        if role == "phase":
            return phases(values, where, plain_name(column))
        if role == LAYER:
            return layers(values, where, column)
        return integers(values, where, column)

    def _keys(self, role: str, values: Sequence[Any] | NDArray[Any], where: Where, column: str) -> Whole:
        """Numbers of texts and numbers by order of appearance."""
        known = self._codes[role]
        found = np.empty(len(values), np.int64)
        for at, value in enumerate(values.tolist() if isinstance(values, np.ndarray) else values):
            if not isinstance(value, str | int | float):
                raise UserError(f"{where(at)}: {column}={value!r}: must be a number or text")
            found[at] = known.setdefault(value, len(known))
        return found


def _is_empty(flat: Any) -> bool:
    return not isinstance(flat, np.ndarray) and all(value is None for value in flat)


def _joined(parts: list[Cells], name: str) -> Whole:
    return np.concatenate([getattr(part, name) for part in parts])


def _joined_floats(parts: list[Cells], name: str) -> NDArray[np.float32] | None:
    return None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
