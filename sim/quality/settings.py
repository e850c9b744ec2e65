"""The schema of ``conf/quality.yaml`` beyond the groups it shares with ``run``."""

from __future__ import annotations

from dataclasses import dataclass

from traces.errors import UserError

MODES = ("auto", "parallel", "decode")


def at_least(name: str, value: int, lowest: int) -> None:
    """Raises: UserError for a smaller value."""
    if value < lowest:
        raise UserError(f"{name}={value}: must be at least {lowest}")


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """What is measured on which text. ``mode``: ``parallel`` (teacher-forced, one pass per window), ``decode`` (token
    by token with the clock in the loop), ``auto`` (parallel where that decides the same, else decode). ``weights`` of a
    substitute: its ``own`` or those of the expert it replaces (``inherit``)."""

    prompts: str = "builtin"
    windows: int = 24
    tokens: int = 256
    text_seed: int = 0
    fit_windows: int = 16
    mode: str = "auto"
    weights: str = "own"
    contrasts: bool = True
    per_layer: bool | None = None
    batch_windows: int = 4
    sizes: str = "auto"
    resume: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode={self.mode}: must be one of {', '.join(MODES)}")
        if self.weights not in ("own", "inherit"):
            raise UserError(f"weights={self.weights}: must be own or inherit")
        for name, lowest in (("windows", 1), ("tokens", 2), ("fit_windows", 1), ("batch_windows", 1), ("text_seed", 0)):
            at_least(name, getattr(self, name), lowest)


@dataclass(frozen=True, slots=True)
class ClozeConfig:
    """Multiple choice: which of ``choices`` continuations follows the first tokens of a window. 0 items: left out."""

    items: int = 24
    choices: int = 4
    context_tokens: int = 128
    continuation_tokens: int = 32

    def __post_init__(self) -> None:
        at_least("cloze.items", self.items, 0)
        at_least("cloze.choices", self.choices, 2)
        at_least("cloze.context_tokens", self.context_tokens, 1)
        at_least("cloze.continuation_tokens", self.continuation_tokens, 1)

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

    windows: int = 8
    prompt_tokens: int = 64
    new_tokens: int = 32

    def __post_init__(self) -> None:
        at_least("generation.windows", self.windows, 0)
        at_least("generation.prompt_tokens", self.prompt_tokens, 1)
        at_least("generation.new_tokens", self.new_tokens, 1)

    def check(self, windows: int, tokens: int) -> None:
        """Raises: UserError where the windows do not hold the prompts."""
        if self.windows > windows:
            raise UserError(f"generation.windows={self.windows}: at most windows={windows}")
        if self.windows and self.prompt_tokens + self.new_tokens > tokens:
            raise UserError(
                f"generation.prompt_tokens={self.prompt_tokens} and generation.new_tokens={self.new_tokens}: together "
                f"at most tokens={tokens}"
            )
