"""Lines to finish: a line of held-out text is given up to its last tokens, the model writes the rest of it greedily.

An item is right where what is written is, up to the end of the line, exactly the text's own. Of windows some of which
are code only those are used: a line of prose does not say where it is broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.quality.settings import LinesConfig
from sim.quality.windows import Windows

CODE = "code"
GIVEN = 2
"""Tokens of a line that are given at least."""


@dataclass(frozen=True, slots=True)
class Lines:
    """N items: ``prompts`` [N, P] tokens before the cut, ``rests`` [N] the text from there to the end of the line
    (without it), ``documents`` [N]; ``tokenizer`` tells what written tokens say."""

    tokenizer: Any
    prompts: NDArray[np.int64]
    rests: tuple[str, ...]
    documents: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rests)

    def judged(self, item: int, base: NDArray[np.int64], written: NDArray[np.int64]) -> tuple[float, float]:
        """(1 where written tokens finish the line exactly, 1 where they say what ``base``, the untouched model's, does
        up to the end of the line)."""
        mine, plain = self.line(written), self.line(base)
        return float(mine == (self.rests[item], True)), float(mine == plain)

    def line(self, tokens: NDArray[np.int64]) -> tuple[str, bool]:
        """(text up to the end of the line, whether it ends)."""
        text, end, _ = str(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)).partition("\n")
        return text, bool(end)


def line_items(windows: Windows, tokenizer: Any, config: LinesConfig, seed: int) -> Lines:
    """At most ``config.items`` items: every window gives one before any gives its second, drawn by ``seed``.

    A line is cut ``left`` tokens before its end, the token with the end being the last of them; ``prompt_tokens`` lie
    before the cut in its window.
    """
    chosen = [i for i, domain in enumerate(windows.domains) if domain == CODE] or [*range(len(windows))]
    found: list[list[tuple[int, int, int]]] = []
    for window in chosen if config.items else []:
        cuts = [(window, *cut) for cut in _cuts(windows.tokens[window], tokenizer, config)]
        order = np.random.default_rng((seed, window)).permutation(len(cuts))
        found.append([cuts[i] for i in order])
    turns = range(max(map(len, found), default=0))
    items = [cuts[turn] for turn in turns for cuts in found if turn < len(cuts)][: config.items]
    rests = tuple(_text(tokenizer, windows.tokens[window][cut:stop]) for window, cut, stop in items)
    prompts = [windows.tokens[window][cut - config.prompt_tokens : cut] for window, cut, _ in items]
    documents = tuple(windows.documents[window] for window, _, _ in items)
    return Lines(tokenizer, np.array(prompts, np.int64).reshape(-1, config.prompt_tokens), rests, documents)


def _cuts(tokens: NDArray[np.int64], tokenizer: Any, config: LinesConfig) -> Iterator[tuple[int, int]]:
    """(cut, one past the token that ends the line) of every line of a window that can be an item."""
    ends = [place for place, token in enumerate(tokens.tolist()) if "\n" in str(tokenizer.decode([token]))]
    for before, end in pairwise(ends):
        cut = end + 1 - config.left
        if cut >= max(before + 1 + GIVEN, config.prompt_tokens) and _text(tokenizer, tokens[cut : end + 1]).strip():
            yield cut, end + 1


def _text(tokenizer: Any, tokens: Sequence[int] | NDArray[np.int64]) -> str:
    return str(tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False)).partition("\n")[0]
