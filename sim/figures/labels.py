"""Labels of ordinates that are longer than their panel go on more lines."""

import textwrap

from matplotlib.figure import Figure

LETTER_IN = 0.062
"""Width of a letter of 8 points."""


def fit_labels(figure: Figure) -> None:
    """Break the labels of ordinates that would stand out above or below their panels.

    Only figures in which one may be too long are laid out to be measured, which takes some tenths of a second.
    """
    places = [place for panel in figure.axes if (place := panel.get_subplotspec()) is not None]
    rows = max((place.get_gridspec().nrows for place in places), default=1)
    longest = max((len(line) for panel in figure.axes for line in panel.get_ylabel().split("\n")), default=0)
    if longest * LETTER_IN < 0.4 * figure.get_figheight() / rows:
        return
    figure.draw_without_rendering()
    for panel in figure.axes:
        text, room = panel.yaxis.get_label(), panel.get_window_extent().height
        long = text.get_window_extent().height
        if panel.get_ylabel() and long > room:
            lines = panel.get_ylabel().split("\n")
            letters = max(8, int(max(map(len, lines)) * room / long))
            panel.set_ylabel("\n".join(part for line in lines for part in textwrap.wrap(line, letters)))
