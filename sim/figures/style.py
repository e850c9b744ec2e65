"""How figures look: sizes of a two-column page, colours that colour-blind readers can tell apart, and footnotes."""

import textwrap
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

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

_FOOTNOTE_POINTS, _LINE_POINTS = 6.0, 7.6


def add_footnote(figure: Figure, text: str) -> None:
    """Write `text` in small letters below everything else; the figure grows by the room it takes."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(text, width=int(width * 72 / (_FOOTNOTE_POINTS * 0.58)))
    extra = (len(lines) * _LINE_POINTS + 3) / 72
    share = extra / (height + extra)
    figure.set_size_inches(width, height + extra)
    figure.text(0.01, 0.01, "\n".join(lines), fontsize=_FOOTNOTE_POINTS, color="#444444", va="bottom", linespacing=1.15)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, share, 1, 1 - share))
