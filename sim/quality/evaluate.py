"""Runs an evaluation task by task: windows, cloze items, continuations; finished ones are read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sim.quality.cloze import cloze_item, log_likelihoods
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
    """Run all tasks; ``progress`` takes the number of tokens processed since its last call.

    Where the cache is carried from window to window no window can be skipped, so nothing is read from the store. Cloze
    items and continuations always begin with the cache as at the start.
    """
    if not study.loop.resets:
        store = Store(None)
    config, results = study.config, Results()
    for number, arrays in windows_of(study, store):
        results.windows.append(arrays)
        progress(len(study.variants) * config.quality.tokens)
        store.put(f"window_{number}", arrays)
    study.loop.resets = True
    for item in range(config.cloze.items):
        results.cloze.append(_read_or_run(store, f"cloze_{item}", partial(_run_cloze, study, item)))
        progress(cloze_tokens(study))
    for number in range(config.generation.windows):
        run = partial(_run_generation, study, number)
        results.generation.append(_read_or_run(store, f"generation_{number}", run))
        progress(generation_tokens(study))
    return results


def total_tokens(study: Study) -> int:
    """Sum of all numbers passed to ``progress``."""
    config = study.config
    windows = config.quality.windows * config.quality.tokens * len(study.variants)
    return windows + config.cloze.items * cloze_tokens(study) + config.generation.windows * generation_tokens(study)


def cloze_tokens(study: Study) -> int:
    cloze = study.config.cloze
    return cloze.choices * (cloze.context_tokens + cloze.continuation_tokens) * (1 + len(whole(study)))


def generation_tokens(study: Study) -> int:
    return study.config.generation.new_tokens * (1 + len(whole(study)))


def whole(study: Study) -> tuple[Variant, ...]:
    """The variants that are active in every layer."""
    return tuple(variant for variant in study.variants if variant.layer is None)


def _read_or_run(store: Store, task: str, run: Callable[[], Arrays]) -> Arrays:
    arrays = store.get(task)
    if arrays is None:
        arrays = run()
        store.put(task, arrays)
    return arrays


def windows_of(study: Study, store: Store) -> Iterator[tuple[int, Arrays]]:
    """(number, result) of every window, in order; those that are not stored run in batches."""
    quality = study.config.quality
    size = quality.batch_windows if study.parallel else 1
    for first in range(0, quality.windows, size):
        numbers = range(first, min(first + size, quality.windows))
        stored = [store.get(f"window_{number}") for number in numbers]
        if all(result is not None for result in stored):
            yield from ((number, result) for number, result in zip(numbers, stored, strict=True) if result is not None)
        else:
            yield from zip(numbers, _run_windows(study, numbers), strict=True)


def _run_windows(study: Study, numbers: range) -> list[Arrays]:
    """Run all variants over some windows."""
    tokens = study.windows.tokens[numbers.start : numbers.stop]
    base = plain_logits(study.loop.model, tokens)
    results: list[Arrays] = [{} for _ in numbers]
    for variant in study.variants:
        if not study.loop.resets:
            study.loop.live.restore(study.carried.get(variant.name, study.loop.live.start))
        active = slice(None) if variant.layer is None else slice(variant.layer, variant.layer + 1)
        passed = passes(study, tokens, variant, numbers.start)
        for result, window, plain, with_policy in zip(results, tokens, base, passed, strict=True):
            result[variant.name] = per_token(plain, with_policy.logits, window)
            shares = changed_share(with_policy.arrays.ids[:, active], with_policy.executed[:, active])
            result[f"{variant.name}.changed"] = np.array(shares)
            if variant.name == POLICY and with_policy.timing is not None:
                result |= {name: getattr(with_policy.timing, name) for name in TIMES}
        if not study.loop.resets:
            study.carried[variant.name] = study.loop.live.save()
    return results


def passes(study: Study, tokens: NDArray[np.int64], variant: Variant, first: int) -> list[Pass]:
    """Run one variant over windows [N, S]."""
    if study.parallel:
        return parallel(study.loop, tokens, variant, first)
    return [decode(study.loop, window, variant, first + i) for i, window in enumerate(tokens)]


def _run_cloze(study: Study, item: int) -> Arrays:
    """Log-likelihood of every continuation, untouched and by variant."""
    tokens = cloze_item(study.windows, item, study.config.cloze, study.config.quality.text_seed)
    context = study.config.cloze.context_tokens
    arrays: Arrays = {"base": log_likelihoods(plain_logits(study.loop.model, tokens), tokens, context)}
    for variant in whole(study):
        logits = [passed.logits for passed in passes(study, tokens, variant, 0)]
        arrays[variant.name] = log_likelihoods(logits, tokens, context)
    return arrays


def _run_generation(study: Study, number: int) -> Arrays:
    """The greedy continuation of a window's first tokens, untouched and by variant."""
    config = study.config.generation
    prompt = study.windows.tokens[number, : config.prompt_tokens]
    arrays: Arrays = {"base": plain_continuation(study.loop.model, prompt, config.new_tokens)}
    for variant in whole(study):
        arrays[variant.name], timing = continuation(study.loop, prompt, config.new_tokens, variant, number)
        if variant.name == POLICY:
            arrays["latency_ns"] = timing.latency_ns
    return arrays
