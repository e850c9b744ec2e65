"""Runs an evaluation task by task: windows, cloze items, continuations; finished ones are read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sim.quality.cloze import cloze_item, log_likelihood
from sim.quality.decode import decode
from sim.quality.generation import continuation, plain_continuation
from sim.quality.loop import Variant, changed_share
from sim.quality.measures import per_token
from sim.quality.parallel import Pass, parallel, plain_logits
from sim.quality.store import Arrays, Store
from sim.quality.study import POLICY, Study

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMES = ("latency_ns", "parts_ns", "counts", "lost")


@dataclass(slots=True)
class Results:
    """What the tasks gave, each in order of its windows. Keys of windows: `<variant>` [S-1, columns of
    ``sim.quality.measures``], `<variant>.changed` [2], and the fields of ``StepResults``; of cloze items:
    `base` and `<variant>` [choices]; of continuations: `base` and `<variant>` [new tokens]."""

    windows: list[Arrays] = field(default_factory=list)
    cloze: list[Arrays] = field(default_factory=list)
    generation: list[Arrays] = field(default_factory=list)


def run_study(study: Study, store: Store, progress: Callable[[int], object] = lambda tokens: None) -> Results:
    """All tasks; ``progress`` is told how many tokens of how many passes are done more.

    Where the cache is carried from window to window a finished window cannot be left out, so nothing is read back;
    cloze items and continuations begin with the cache as at the start in any case.
    """
    if not study.loop.resets:
        store = Store(None)
    found = Results()
    for number, result in windows_of(study, store):
        found.windows.append(result)
        progress(len(study.variants) * study.settings.tokens)
        store.put(f"window_{number}", result)
    study.loop.resets = True
    for item in range(study.cloze.items):
        found.cloze.append(_kept(store, f"cloze_{item}", lambda item=item: _cloze(study, item)))  # type: ignore[misc]
        progress(cloze_tokens(study))
    for number in range(study.generation.windows):
        run = lambda number=number: _generation(study, number)  # noqa: E731
        found.generation.append(_kept(store, f"generation_{number}", run))
        progress(generation_tokens(study))
    return found


def total_tokens(study: Study) -> int:
    """What ``progress`` sums to."""
    windows = study.settings.windows * study.settings.tokens * len(study.variants)
    return windows + study.cloze.items * cloze_tokens(study) + study.generation.windows * generation_tokens(study)


def cloze_tokens(study: Study) -> int:
    cloze = study.cloze
    return cloze.choices * (cloze.context_tokens + cloze.continuation_tokens) * (1 + len(whole(study)))


def generation_tokens(study: Study) -> int:
    return study.generation.new_tokens * (1 + len(whole(study)))


def whole(study: Study) -> tuple[Variant, ...]:
    """The variants that are active in every layer."""
    return tuple(variant for variant in study.variants if variant.layer is None)


def _kept(store: Store, task: str, run: Callable[[], Arrays]) -> Arrays:
    found = store.get(task)
    if found is None:
        found = run()
        store.put(task, found)
    return found


def windows_of(study: Study, store: Store) -> Iterator[tuple[int, Arrays]]:
    """(number, result) of every window, in order; those that are not stored run in batches."""
    size = study.settings.batch_windows if study.parallel else 1
    for first in range(0, study.settings.windows, size):
        numbers = range(first, min(first + size, study.settings.windows))
        stored = [store.get(f"window_{number}") for number in numbers]
        if all(result is not None for result in stored):
            yield from ((number, result) for number, result in zip(numbers, stored, strict=True) if result is not None)
        else:
            yield from zip(numbers, _run_windows(study, numbers), strict=True)


def _run_windows(study: Study, numbers: range) -> list[Arrays]:
    """All variants over some windows."""
    tokens = study.windows.tokens[numbers.start : numbers.stop]
    base = plain_logits(study.loop.model, tokens)
    found: list[Arrays] = [{} for _ in numbers]
    for variant in study.variants:
        if not study.loop.resets:
            study.loop.live.restore(study.carried.get(variant.name, study.loop.live.start))
        for result, window, plain, one in zip(
            found, tokens, base, passes(study, tokens, variant, numbers.start), strict=True
        ):
            result[variant.name] = per_token(plain, one.logits, window)
            active = slice(None) if variant.layer is None else slice(variant.layer, variant.layer + 1)
            result[f"{variant.name}.changed"] = np.array(
                changed_share(one.arrays.ids[:, active], one.executed[:, active])
            )
            if variant.name == POLICY and one.timing is not None:
                result |= {name: getattr(one.timing, name) for name in TIMES}
        if not study.loop.resets:
            study.carried[variant.name] = study.loop.live.save()
    return found


def passes(study: Study, tokens: NDArray[np.int64], variant: Variant, first: int) -> list[Pass]:
    """One variant over windows [N, S]."""
    if study.parallel:
        return parallel(study.loop, tokens, variant, first)
    return [decode(study.loop, window, variant, first + i) for i, window in enumerate(tokens)]


def _cloze(study: Study, item: int) -> Arrays:
    """Log-likelihood of every continuation, untouched and by variant."""
    tokens = cloze_item(study.windows, item, study.cloze, study.settings.text_seed)
    context = study.cloze.context_tokens
    base = plain_logits(study.loop.model, tokens)
    found: Arrays = {
        "base": np.array([log_likelihood(plain, t, context) for plain, t in zip(base, tokens, strict=True)])
    }
    for variant in whole(study):
        runs = passes(study, tokens, variant, 0)
        scores = [log_likelihood(one.logits, t, context) for one, t in zip(runs, tokens, strict=True)]
        found[variant.name] = np.array(scores)
    return found


def _generation(study: Study, number: int) -> Arrays:
    """The greedy continuation of a window's first tokens, untouched and by variant."""
    config = study.generation
    prompt = study.windows.tokens[number, : config.prompt_tokens]
    found: Arrays = {"base": plain_continuation(study.loop.model, prompt, config.new_tokens)}
    for variant in whole(study):
        found[variant.name], timing = continuation(study.loop, prompt, config.new_tokens, variant, number)
        if variant.name == POLICY:
            found["latency_ns"] = timing.latency_ns
    return found
