"""Every text of a picture passes here: nothing in it steers a reader, and every character has a glyph."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from matplotlib import rc_context
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from sim.figures.style import STYLE
from traces.text import visible


@cache
def _glyphs() -> frozenset[str]:
    """The characters that the font of the figures can draw."""
    font = FT2Font(findfont(FontProperties(family=STYLE["font.sans-serif"])))
    return frozenset(map(chr, font.get_charmap()))


def drawable(text: str) -> str:
    """Visible text; a character without a glyph becomes its escape, as `\\u4f60`."""
    glyphs = _glyphs()
    return "".join(one if one in glyphs or one == "\n" else ascii(one)[1:-1] for one in visible(text))


@contextmanager
def figure_style(**more: Any) -> Iterator[None]:
    """Inside, figures are drawn and saved in the package's style, and all their text is drawable."""
    before = Text.set_text

    def set_text(self: Text, s: object) -> None:
        before(self, drawable(s) if isinstance(s, str) else s)

    Text.set_text = set_text  # type: ignore[method-assign]
    try:
        with rc_context(STYLE | more):
            yield
    finally:
        Text.set_text = before  # type: ignore[method-assign]
