"""What the files of numbers have in common, `conf/hardware` and `conf/runtime`: figures with sources and errors.

A file is a frozen dataclass. Each number in it is a field annotated with a `Parameter`; other settings are annotated
with `Choice` or are plain flags. Every figure that a file states can be given a source and a relative standard error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

from sim.paths import yaml_names
from sim.plain_yaml import read_mapping
from sim.ranges import OneOf, Range
from traces.errors import UserError

LARGEST = 1e300

# From most to least trusted; EMULATED is what was measured of something that software only imitates, as a paced link.
# A file as a whole is worth no more than its weakest figure.
LABELS = ("MEASURED", "PUBLISHED", "EMULATED", "FITTED", "ESTIMATED")

POSITIVE, NOT_NEGATIVE, AT_LEAST_ONE = Range(0, above=True), Range(0), Range(1)
SHARE = Range(0, 1, above=True)
BEFORE_LOOKUP, AFTER_EXPERTS = "before the lookup", "after the experts"
GPU, CPU, LINK, LAUNCH, HOST, SYNC, STORAGE = (
    ("attention", "expert"), ("cpu",), ("link",), ("launch",), ("host",), ("sync",), ("storage",),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a number of a file may be, and which times rest on it."""

    parts: tuple[str, ...]
    """Parts of a token's time that are as uncertain as the number; () where its uncertainty is not passed on."""
    limit: Range = NOT_NEGATIVE
    whole: bool = False
    """Only whole numbers make sense."""
    each_layer: str | None = None
    """BEFORE_LOOKUP or AFTER_EXPERTS: seconds that every layer spends then; ``parts`` names the one they belong to."""
    switch: str = ""
    """Field of ``sim.config.TimeConfig`` that switches such a constant off."""
    offloading: bool = False
    """Paid only where experts are offloaded: a policy that keeps all of them resident does not."""


Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Marks a field that holds rows of numbers above 0, with the names of its columns."""

    columns: tuple[str, ...]

    def read(self, what: str, name: str, value: Any) -> Rows | None:
        """The rows as tuples. Raises: UserError where they are none."""
        if value is None:
            return None
        rows = value if isinstance(value, list | tuple) else ()
        if not rows:
            raise UserError(f"{what}: {name}={value!r}: must be a list of rows [{', '.join(self.columns)}], or null")
        for row in rows:
            if not isinstance(row, list | tuple) or len(row) != len(self.columns):
                raise UserError(f"{what}: {name} holds {row!r}: a row is [{', '.join(self.columns)}]")
            for column, number in zip(self.columns, row, strict=True):
                _check_number(what, f"{name} ({column})", Parameter((), POSITIVE), number, False)
        kept = tuple(tuple(float(number) for number in row) for row in rows)
        if len({row[:2] for row in kept}) < len(kept):
            raise UserError(f"{what}: {name} states one {self.columns[0]} and {self.columns[1]} twice")
        return kept


@dataclass(frozen=True, slots=True)
class Figures:
    """A file of figures. Subclasses add them as fields.

    Raises: UserError when a figure is missing, no number, out of range, or when label and sources do not fit.
    """

    KIND: ClassVar[str]
    """What such a file is called on the command line."""

    name: str
    label: str = field(default="ESTIMATED", kw_only=True)
    """Speaks for the file as a whole; may not claim more than the weakest source."""
    sources: dict[str, str] = field(default_factory=dict, kw_only=True)
    """For each figure how it is known (one of `LABELS`) and where it comes from."""
    uncertainty: dict[str, float] = field(default_factory=dict, kw_only=True)
    """Relative standard errors of figures; a figure without one counts as exact."""

    def __post_init__(self) -> None:
        what = f"{self.KIND} {self.name}"
        parameters = parameters_of(type(self))
        for name, parameter in parameters.items():
            _check_number(what, name, parameter, getattr(self, name), name in optional_of(type(self)))
        for name, allowed in settings_of(type(self)).items():
            _check_setting(what, name, getattr(self, name), allowed)
        if self.label not in LABELS:
            raise UserError(f"{what}: label={self.label!r} is not one of {', '.join(LABELS)}")
        for name, table in tables_of(type(self)).items():
            object.__setattr__(self, name, table.read(what, name, getattr(self, name)))
        known = (*parameters, *settings_of(type(self)), *tables_of(type(self)))
        _check_sources(what, self.label, self.sources, known)
        _check_uncertainty(what, self.uncertainty, tuple(parameters))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The file's content given as plain `field: value` pairs.

        Raises: UserError that names the first unknown, missing or impossible field.
        """
        known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(cls)}
        what = f"{cls.KIND} {config.get('name', 'without a name')}"
        for key in config:
            if key not in known:
                allowed = ", ".join(sorted(known))
                raise UserError(f"{what}: {key} is not a field of a {cls.KIND} file: the fields are {allowed}")
        for key, required in known.items():
            if required and config.get(key) is None:
                raise UserError(f"{what}: {key} is missing: state it, with its source")
        tables = ("sources", "uncertainty")
        for table in tables:
            if not isinstance(config.get(table, {}), Mapping):
                raise UserError(f"{what}: {table}={config[table]!r} must hold one entry per figure")
        values: dict[str, Any] = {key: dict(value) if key in tables else value for key, value in config.items()}
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The content of a file. Raises: UserError when it cannot be read, or holds nothing possible."""
        if not path.is_file():
            raise UserError(f"{cls.KIND}={path}: there is no such file")
        return cls.from_config(read_mapping(path, f"the {cls.KIND} file"))

    @classmethod
    def load(cls, name: str, folder: Path) -> Self:
        """What `<folder>/<name>.yaml` holds, or the file at a path that ends in .yaml.

        Raises: UserError when there is no such file, or when a field in it is unknown, missing or out of range.
        """
        if name.endswith(".yaml"):
            return cls.read(Path(name).expanduser())
        if name not in yaml_names(folder):
            known = ", ".join(yaml_names(folder))
            raise UserError(f"{cls.KIND}={name} is not known: choose one of {known}, or the path of a *.yaml file")
        return cls.read(folder / f"{name}.yaml")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def parameters_of(cls: Any) -> dict[str, Parameter]:
    """Every number of such a file, in the order of the fields."""
    return {
        name: parameter
        for name, hint in _hints(cls).items()
        for parameter in getattr(hint, "__metadata__", ())
        if isinstance(parameter, Parameter)
    }


def optional_of(cls: Any) -> frozenset[str]:
    """Numbers that such a file need not state and whose absence has a meaning of its own."""
    numbers = parameters_of(cls)
    return frozenset(f.name for f in fields(cls) if f.name in numbers and f.default is None)


def settings_of(cls: Any) -> dict[str, OneOf | None]:
    """What such a file states beside numbers: words with what is allowed, and flags (None)."""
    found: dict[str, OneOf | None] = {}
    for name, hint in _hints(cls).items():
        words = [rule for rule in getattr(hint, "__metadata__", ()) if isinstance(rule, OneOf)]
        if words or hint is bool:
            found[name] = words[0] if words else None
    return found


def tables_of(cls: Any) -> dict[str, Table]:
    """Tables of such a file."""
    return {
        name: mark
        for name, hint in _hints(cls).items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, Table)
    }


def _check_number(what: str, name: str, parameter: Parameter, value: Any, optional: bool) -> None:
    if value is None and optional:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if not number or not math.isfinite(value):
        raise UserError(f"{what}: {name}={value!r} must be a finite number")
    if parameter.whole and not float(value).is_integer():
        raise UserError(f"{what}: {name}={value} must be a whole number")
    if not parameter.limit.holds(value):
        raise UserError(f"{what}: {name}={value}: must be {parameter.limit}")


def _check_setting(what: str, name: str, value: Any, allowed: OneOf | None) -> None:
    if allowed is None and not isinstance(value, bool):
        raise UserError(f"{what}: {name}={value!r}: must be true or false")
    if allowed is not None and not (isinstance(value, str) and allowed.holds(value)):
        raise UserError(f"{what}: {name}={value!r}: must be {allowed}")


def _check_sources(what: str, label: str, sources: Mapping[str, str], known: tuple[str, ...]) -> None:
    weakest = 0
    for name, source in sources.items():
        if name not in known:
            raise UserError(f"{what}: sources.{name} names no figure of it")
        found = str(source).split(":", 1)[0]
        if found not in LABELS:
            raise UserError(f"{what}: sources.{name}={source!r} must begin with one of {', '.join(LABELS)} and a colon")
        weakest = max(weakest, LABELS.index(found))
    if LABELS.index(label) < weakest:
        raise UserError(f"{what}: label={label} claims more than its weakest source, which is {LABELS[weakest]}")


def _check_uncertainty(what: str, uncertainty: Mapping[str, float], known: tuple[str, ...]) -> None:
    for name, value in uncertainty.items():
        if name not in known:
            raise UserError(f"{what}: uncertainty.{name} names no figure of it")
        if isinstance(value, bool) or not isinstance(value, int | float) or not NOT_NEGATIVE.holds(value):
            raise UserError(f"{what}: uncertainty.{name}={value!r} must be 0 or above")
