"""Which colour, dashes, marker and hatching a policy has: the same in all figures of a folder of runs; bounds are grey.

A look is a number in the column `look` of the table of runs: `add_looks` gives each contender the next one, by name.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from sim.figures.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "////", "....", "\\\\\\\\")
"""Of 6, 5, 7 and 4: lines of 210 policies differ in a pair of them, and neighbours in all."""
BOUNDS: tuple[dict[str, Any], ...] = (
    {"color": "#333333", "linestyle": "-", "marker": "*"},
    {"color": "#777777", "linestyle": "--", "marker": "x"},
    {"color": "#A0A0A0", "linestyle": ":", "marker": "+"},
    {"color": "#5A5A5A", "linestyle": (0, (6, 2, 1, 2)), "marker": "1"},
    {"color": "#B8B8B8", "linestyle": "-.", "marker": "2"},
)
FILLS_OF_PLACES = (("#33506B", ""), ("#9DB8D0", "////"), ("#CBD8E4", "...."), ("#62809C", "xxxx"))
"""Of bars that stand for set-ups, not for policies: slate, which no policy has."""
STYLES_OF_PLACES = ("full", "none", "left", "bottom", "right", "top")
"""How markers are filled where a policy has a line per set-up."""


def add_looks(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `look`: the place of a run's contender among those that are bounds, or among those that are not,
    in alphabetical order; and `place_look`: the place of its set-up, workload and batch size among all."""
    looks: dict[str, int] = {}
    for bound in (False, True):
        names = sorted(set(table.loc[table["bound"] == bound, "contender"]) - set(looks))
        looks |= {name: place for place, name in enumerate(names)}
    places = {name: place for place, name in enumerate(sorted(set(table["place"])))}
    return table.assign(look=table["contender"].map(looks), place_look=table["place"].map(places))


def line_look(table: pd.DataFrame) -> dict[str, Any]:
    """Colour, dashes, marker and its filling of the line of these runs: those of the first."""
    first = table.iloc[0]
    number, bound = int(first.get("look", 0)), bool(first.get("bound", False))
    place = int(first.get("place_look", 0))
    look = dict(BOUNDS[number % len(BOUNDS)]) if bound else {
        "color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }  # fmt: skip
    return look | {"fillstyle": STYLES_OF_PLACES[place % len(STYLES_OF_PLACES)]}


def bar_fill(table: pd.DataFrame) -> tuple[str, str]:
    """Colour and hatching of the bars of these runs: those of the first."""
    first = table.iloc[0]
    number = int(first.get("look", 0))
    if first.get("bound", False):
        return str(BOUNDS[number % len(BOUNDS)]["color"]), ""
    return COLOURS[number % len(COLOURS)], HATCHES[number % len(HATCHES)]


def place_fill(index: int) -> tuple[str, str]:
    """Colour and hatching of the bars of a set-up."""
    return FILLS_OF_PLACES[index % len(FILLS_OF_PLACES)]
