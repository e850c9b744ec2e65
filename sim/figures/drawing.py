"""What a figure declares about itself, and what it says when it cannot be drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from traces.errors import UserError

RUNS, TRACE, VALIDATION, MAP, SYSTEMS = "runs", "a trace", "a validation", "a map", "a table of systems"
LAST = 1000


class MissingData(UserError):
    """A figure cannot be drawn from these results; the sentence names the command that gives what it needs."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure.

    `says`: what it shows, in one line. `draw`: function of a table, the columns of the page, and those of the command's
    options that `options` names. `source`: what it is drawn from; `read` makes the table of that, without it
    `run_table.study` does. `heading`: over it in the report, where `in_report`. Lists of figures follow `place`.
    """

    name: str
    says: str
    draw: Callable[..., Figure]
    source: str = RUNS
    read: Callable[[Path], pd.DataFrame] | None = None
    heading: str = ""
    place: int = LAST
    options: tuple[str, ...] = ()
    in_report: bool = True


DRAWINGS: dict[str, Drawing] = {}
"""What the modules that were imported declare, by name."""


def declare(name: str, says: str, **about: Any) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Makes the function that follows the figure of this name; `about`: further fields of `Drawing`."""

    def keep(draw: Callable[..., Figure]) -> Callable[..., Figure]:
        DRAWINGS[name] = Drawing(name, says, draw, **about)
        return draw

    return keep
