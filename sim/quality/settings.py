"""The schema of ``conf/quality.yaml`` beyond the groups it shares with ``run``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

from sim.ranges import Amount, Count, OneOf, Positive, Range, check_ranges
from traces.errors import UserError

MODES = ("auto", "parallel", "decode")


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """What is measured on which text. ``mode``: ``parallel`` (teacher-forced, one pass per window), ``decode`` (token
    by token with the clock in the loop), ``auto`` (parallel where that decides the same, else decode). ``weights`` of a
    substitute: its ``own`` or those of the expert it replaces (``inherit``). ``step_tokens``: consecutive positions of
    a window that one step decodes, as where drafts are verified that are all accepted. ``margin``: a change
    of perplexity (relative) or of a share (points / 100) that counts as none; ``contrast_margin``: of the KL
    divergence, relative."""

    prompts: str = "builtin"
    windows: Count = 24
    tokens: Annotated[int, Range(2)] = 256
    text_seed: Amount = 0
    fit_windows: Count = 16
    mode: Annotated[str, OneOf(*MODES)] = "auto"
    step_tokens: Annotated[int, Range(1, 65)] = 1
    weights: Annotated[str, OneOf("own", "inherit")] = "own"
    contrasts: bool = True
    margin: Positive = 0.01
    contrast_margin: Positive = 0.1
    per_layer: bool | None = None
    batch_windows: Count = 8
    quick: bool = False
    sizes: str = "auto"
    resume: bool = True

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class ClozeConfig:
    """Multiple choice: which of ``choices`` continuations follows the first tokens of a window. 0 items: left out."""

    items: Amount = 24
    choices: Annotated[int, Range(2)] = 4
    context_tokens: Count = 128
    continuation_tokens: Count = 32

    def __post_init__(self) -> None:
        check_ranges(self, "cloze.")

    def check(self, windows: int, tokens: int) -> None:
        """Raises: UserError where the windows do not hold the items."""
        if self.items == 0:
            return
        if self.context_tokens + self.continuation_tokens > tokens:
            raise UserError(
                f"cloze.context_tokens={self.context_tokens} and cloze.continuation_tokens={self.continuation_tokens}: "
                f"together at most tokens={tokens}"
            )
        if self.items > windows:
            raise UserError(f"cloze.items={self.items}: at most windows={windows}")


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Free-running greedy continuation of the first tokens of a window. 0 windows: left out."""

    windows: Amount = 8
    prompt_tokens: Count = 64
    new_tokens: Count = 32

    def __post_init__(self) -> None:
        check_ranges(self, "generation.")

    def check(self, windows: int, tokens: int) -> None:
        """Raises: UserError where the windows do not hold the prompts."""
        if self.windows > windows:
            raise UserError(f"generation.windows={self.windows}: at most windows={windows}")
        if self.windows and self.prompt_tokens + self.new_tokens > tokens:
            raise UserError(
                f"generation.prompt_tokens={self.prompt_tokens} and generation.new_tokens={self.new_tokens}: together "
                f"at most tokens={tokens}"
            )


@dataclass(frozen=True, slots=True)
class LinesConfig:
    """Lines of the windows to be finished: at most ``items``, as many as the windows hold, ``left`` tokens before their
    end. 0 items: left out."""

    items: Amount = 48
    left: Count = 2
    prompt_tokens: Count = 64
    new_tokens: Count = 12

    def __post_init__(self) -> None:
        check_ranges(self, "lines.")

    def check(self, tokens: int) -> None:
        """Raises: UserError where no window holds a prompt and a rest."""
        if self.items and self.prompt_tokens + self.left > tokens:
            raise UserError(
                f"lines.prompt_tokens={self.prompt_tokens} and lines.left={self.left}: together at most tokens={tokens}"
            )
        if self.items and self.left > self.new_tokens:
            raise UserError(f"lines.left={self.left}: at most lines.new_tokens={self.new_tokens}")


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """Everything that one evaluation measures: windows of text, cloze items, continuations, lines."""

    quality: QualityConfig = field(default_factory=QualityConfig)
    cloze: ClozeConfig = field(default_factory=ClozeConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    lines: LinesConfig = field(default_factory=LinesConfig)

    @classmethod
    def windows_only(cls, quality: QualityConfig) -> StudyConfig:
        """Neither cloze items nor continuations nor lines."""
        return cls(quality, ClozeConfig(items=0), GenerationConfig(windows=0), LinesConfig(items=0))

    def check(self) -> None:
        """Raises: UserError where the windows hold neither the cloze items nor the prompts."""
        quality = self.quality
        if quality.step_tokens > quality.tokens:
            raise UserError(f"step_tokens={quality.step_tokens}: at most tokens={quality.tokens}")
        free = {"generation.windows": self.generation.windows, "lines.items": self.lines.items}
        for name, count in free.items():
            if quality.step_tokens > 1 and count:
                raise UserError(
                    f"{name}={count}: a free continuation has no drafts, so that "
                    f"step_tokens={quality.step_tokens} means nothing there; use {name}=0"
                )
        self.cloze.check(self.quality.windows, self.quality.tokens)
        self.generation.check(self.quality.windows, self.quality.tokens)
        self.lines.check(self.quality.tokens)


QUICK = 3
"""What `quick=true` divides the number of windows, cloze items, continuations and lines by."""


def quickened(config: StudyConfig) -> tuple[StudyConfig, tuple[str, ...]]:
    """(what is measured, what has to be said of it): less where it has to be quick."""
    if not config.quality.quick:
        return config, ()

    def less(count: int) -> int:
        return -(-count // QUICK)

    windows = less(config.quality.windows)
    sentence = (
        f"quick=true: {windows} of {config.quality.windows} windows, so intervals are about "
        f"{math.sqrt(config.quality.windows / windows):.1f} times as wide"
    )
    return StudyConfig(
        replace(config.quality, windows=windows),
        replace(config.cloze, items=less(config.cloze.items)),
        replace(config.generation, windows=less(config.generation.windows)),
        replace(config.lines, items=less(config.lines.items)),
    ), (sentence,)
