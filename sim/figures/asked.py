"""What a reader wants of figures of runs: which policies, in which order, by which names, what size and style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_params_from_file, rcParams
from matplotlib.figure import Figure

from sim.figures.chart_parts import AXES
from sim.figures.style import resize
from sim.results.series import of_rule
from traces.errors import UserError

MOST_INCHES = 40.0
OWN = ("backend", "figure.hooks", "svg.hashsalt", "text.latex.preamble", "text.parse_math", "text.usetex")
"""Settings that run other programs or code, read names of policies as formulas, or make files differ."""
MOST_STYLE_BYTES = 1 << 20
EXACT = ("contender", "series", "name")
COLUMNS = (*EXACT, "policy")
"""Columns of the table of runs by whose values a reader may name a policy; what an exact one names comes first."""
NAMING = ("contender", "series", "policy")
"""The columns that an error lists, the first that there is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Wishes for figures; the default is to show all as it is.

    `policies`: those shown, by series, or else by policy, or else by the file of a rule of one's own (`spared_lru`);
    `order`: those that come first; `names`: policy -> what it is called; `limits`: column of the table -> ends of the
    axes that show it, in their unit;
    `size_in`: width and height in inches, without the words below; `style`: settings of matplotlib over the package's
    own; `notes`: whether the words stand under the figure.
    """

    policies: Sequence[str] = ()
    order: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    size_in: tuple[float, float] | None = None
    style: Mapping[str, Any] = field(default_factory=dict)
    notes: bool = True

    def chosen(self, table: pd.DataFrame) -> pd.DataFrame:
        """The runs of these policies, in this order, under these names; their looks stay those of the whole table.

        Raises: UserError for a policy that no run has.
        """
        if self.policies:
            table = table[_runs_of(table, self.policies, "policies").notna()]
        if self.order:
            place = _runs_of(table, self.order, "order").fillna(len(self.order))
            table = table.assign(order=place).sort_values("order", kind="stable")
        if self.names:
            _runs_of(table, list(self.names), "names")
            renamed = {
                column: [self._called(str(name)) for name in table[column]] for column in COLUMNS if column in table
            }
            table = table.assign(**renamed)
        return table.reset_index(drop=True)

    def _called(self, name: str) -> str:
        """A name, its policy called as asked for."""
        if name in self.names:
            return self.names[name]
        for ending in (" ", ","):
            policy, found, rest = name.partition(ending)
            if found and policy in self.names:
                return f"{self.names[policy]}{ending}{rest}"
        return name

    def fit(self, figure: Figure) -> None:
        """Give a drawn figure its limits and size."""
        for name, ends in self.limits.items():
            label = AXES[name].label
            for panel in figure.axes:
                if panel.get_xlabel() == label:
                    panel.set_xlim(*ends)
                if panel.get_ylabel() == label:
                    panel.set_ylim(*ends)
        if self.size_in is not None:
            resize(figure, *self.size_in)


def _runs_of(table: pd.DataFrame, names: Sequence[str], word: str) -> pd.Series[float]:
    """Place among `names` of the one that names each run, NaN where none does. Raises: UserError for an unknown one."""
    places = pd.Series(math.nan, table.index)
    for place, name in reversed(list(enumerate(names))):
        named = pd.Series(False, table.index)
        for column in EXACT:
            named |= table[column] == name if column in table else False
        if not named.any() and "policy" in table:
            named = table["policy"] == name
        if not named.any() and "series" in table:
            named = table["series"].map(lambda series, name=name: of_rule(str(series), name)).astype(bool)
        if not named.any():
            known = ", ".join(dict.fromkeys(map(str, table[next(key for key in NAMING if key in table)])))
            raise UserError(f"{word}: no run is of {name}; the runs are of {known}")
        places[named] = float(place)
    return places


def read_limits(words: str) -> dict[str, tuple[float, float]]:
    """`tpot_s.mean:0:40,capacity:10:50` -> ends of axes. Raises: UserError."""
    limits = {}
    for word in words.split(","):
        name, *ends = word.split(":")
        if name not in AXES:
            raise UserError(f"limits={word}: no axis shows {name}; those that can be set are {', '.join(AXES)}")
        low, high = _two(f"limits={word}", ends, "NAME:LOW:HIGH")
        if not low < high:
            raise UserError(f"limits={word}: the low end must be below the high end")
        limits[name] = low, high
    return limits


def read_size(word: str) -> tuple[float, float]:
    """`3.35x2.2` -> width and height in inches. Raises: UserError."""
    width, height = _two(f"size={word}", word.split("x"), "WIDTHxHEIGHT in inches, as 3.35x2.2")
    if not (0.5 <= width <= MOST_INCHES and 0.5 <= height <= MOST_INCHES):
        raise UserError(f"size={word}: width and height must be from 0.5 to {MOST_INCHES:g} inches")
    return width, height


def _two(word: str, ends: Sequence[str], form: str) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{word}: must be {form}")
    return low, high


def read_names(words: str) -> dict[str, str]:
    """`importance:SMoE,lru:LRU` -> names of policies. Raises: UserError."""
    pairs = [word.split(":", 1) for word in words.split(",")]
    for pair in pairs:
        if len(pair) != 2 or not all(pair):
            raise UserError(f"names={words}: must be POLICY:NAME, several with commas between them")
    return {pair[0]: pair[1] for pair in pairs}


def read_style(path: Path) -> dict[str, Any]:
    """The settings of a style file of matplotlib. Raises: UserError where it is none."""
    if not path.is_file():
        raise UserError(f"style={path}: is no file: a style file of matplotlib holds lines as `font.size: 9`")
    if path.stat().st_size > MOST_STYLE_BYTES:
        raise UserError(f"style={path}: is larger than a style file can be ({MOST_STYLE_BYTES:,} bytes)")
    try:
        params = rc_params_from_file(path, fail_on_error=True, use_default_template=False)
        found: dict[str, Any] = {str(name): value for name, value in params.items()}
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"style={path}: is no style file of matplotlib: {error}") from error
    for line in path.read_text(encoding="utf-8").splitlines():
        name = line.partition("#")[0].partition(":")[0].strip()
        if name and name not in rcParams:
            raise UserError(f"style={path}: {name} is no setting of matplotlib, such as `font.size: 9`")
    for name in OWN:
        if name in found:
            raise UserError(f"style={path}: {name} is not taken from a style file")
    if not found:
        raise UserError(f"style={path}: holds no setting of matplotlib, such as `font.size: 9`")
    return found
