"""How figures look: sizes of a two-column page, colours that colour-blind readers can tell apart, and footnotes."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

# One and two columns of an ACM or IEEE page, in inches.
WIDTH_IN = {1: 3.35, 2: 7.0}

# Okabe and Ito 2008, "Color Universal Design", https://jfly.uni-koeln.de/color/
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"

# One entry per line of a figure: colour, dashes and marker all differ, so that a grey print can still be read.
LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-", "marker": "o"},
    {"color": VERMILLION, "linestyle": "--", "marker": "s"},
    {"color": GREEN, "linestyle": "-.", "marker": "^"},
    {"color": PURPLE, "linestyle": ":", "marker": "D"},
    {"color": ORANGE, "linestyle": (0, (5, 1)), "marker": "v"},
    {"color": SKY, "linestyle": (0, (3, 1, 1, 1)), "marker": "P"},
    {"color": BLACK, "linestyle": (0, (1, 1)), "marker": "X"},
    {"color": "#7F7F7F", "linestyle": (0, (6, 2, 1, 2)), "marker": "*"},
)

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same file on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "hatch.linewidth": 0.4,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "figure.dpi": 100,
}

_FOOTNOTE_POINTS, _LINE_POINTS = 6.0, 8.3
_notes_drawn: ContextVar[bool] = ContextVar("notes_drawn", default=True)


class Said(NamedTuple):
    """What a figure says in words: its conclusion, and under which conditions it holds."""

    conclusion: str
    note: str


_said: WeakKeyDictionary[Figure, Said] = WeakKeyDictionary()
_written: WeakKeyDictionary[Figure, tuple[Text, ...]] = WeakKeyDictionary()


def said_of(figure: Figure) -> Said:
    """The words of a figure, whether they were drawn under it or not."""
    return _said.get(figure, Said("", ""))


@contextmanager
def notes_drawn(wanted: bool) -> Iterator[None]:
    """Inside, figures carry their words in small letters below themselves, or not: a paper has captions of its own."""
    before = _notes_drawn.set(wanted)
    try:
        yield
    finally:
        _notes_drawn.reset(before)


def add_footnote(figure: Figure, text: str, conclusion: str = "") -> None:
    """Give a figure its words; they are written below everything else, and the figure grows by the room they take."""
    _said[figure] = Said(conclusion, text)
    if _notes_drawn.get():
        _write_below(figure)


def resize(figure: Figure, width: float, height: float) -> None:
    """Give a figure a size in inches; words below it are set anew in this width, and the figure grows by their room."""
    drawn = _written.pop(figure, ())
    for words in drawn:
        words.remove()
    figure.set_size_inches(width, height)
    if drawn:
        _write_below(figure)


def _write_below(figure: Figure) -> None:
    conclusion, text = said_of(figure)
    width, height = figure.get_size_inches()
    letters = int(width * 72 / (_FOOTNOTE_POINTS * 0.58))
    lines, first = textwrap.wrap(text, letters), textwrap.wrap(conclusion, letters)
    extra = ((len(lines) + len(first)) * _LINE_POINTS + 3) / 72
    share = extra / (height + extra)
    figure.set_size_inches(width, height + extra)
    look: dict[str, Any] = {"fontsize": _FOOTNOTE_POINTS, "va": "bottom", "linespacing": 1.15}
    written = [figure.text(0.01, 0.01, "\n".join(lines), color="#444444", **look)]
    if first:
        above = (len(lines) * _LINE_POINTS + 2) / 72 / (height + extra)
        written.append(figure.text(0.01, above, "\n".join(first), color="#111111", **look))
    _written[figure] = tuple(written)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, share, 1, 1 - share))
