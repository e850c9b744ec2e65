"""Runs an evaluation task by task: windows, cloze items, continuations, lines; finished ones are read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sim.engine.interface import StepResults
from sim.quality.cloze import cloze_item, log_likelihoods
from sim.quality.decode import CoSimulation, decode_rows
from sim.quality.generation import continuations, plain_continuations
from sim.quality.loop import Variant, changed_share, step_bounds
from sim.quality.measures import at_position, per_token
from sim.quality.parallel import parallel, plain_logits
from sim.quality.store import Arrays, Store
from sim.quality.study import POLICY, Study

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Progress = Callable[[int], object]
TIMES = ("latency_ns", "parts_ns", "counts", "lost")


@dataclass(slots=True)
class Results:
    """What the tasks gave, each in order of its windows. Keys of windows: `<variant>` [S-1, columns of
    ``sim.quality.measures``], `<variant>.changed` [2], and the fields of ``StepResults``, by step; of cloze items:
    `base` and `<variant>` [choices]; of continuations: `base` and `<variant>` [new tokens]; of lines: `base` and
    `<variant>` [2], ``Lines.judged``."""

    windows: list[Arrays] = field(default_factory=list)
    cloze: list[Arrays] = field(default_factory=list)
    generation: list[Arrays] = field(default_factory=list)
    lines: list[Arrays] = field(default_factory=list)


def run_study(study: Study, store: Store, progress: Progress = lambda tokens: None) -> Results:
    """Run all tasks; ``progress`` takes the number of tokens processed since its last call.

    Where the cache is carried from window to window no window can be skipped, so nothing is read from the store. Cloze
    items and continuations always begin with the cache as at the start.
    """
    if not study.loop.resets:
        store = Store(None)
    config, results = study.config, Results()
    windows = _run_windows if study.parallel else _decode_windows
    # A carried cache knows one window at a time.
    batch = config.quality.batch_windows if study.parallel or study.loop.resets else 1
    results.windows = run_tasks(study, store, progress, Task("window", config.quality.windows, windows, batch))
    study.loop.resets = True
    batch = config.quality.batch_windows
    results.cloze = run_tasks(study, store, progress, Task("cloze", config.cloze.items, _run_cloze, batch))
    generation = Task("generation", config.generation.windows, _run_generation, batch)
    results.generation = run_tasks(study, store, progress, generation)
    results.lines = run_tasks(study, store, progress, Task("lines", len(study.lines), _run_lines, batch))
    return results


@dataclass(frozen=True, slots=True)
class Task:
    """``count`` things of one kind, of which ``batch`` run side by side."""

    kind: str
    count: int
    run: Callable[[Study, range, Progress], list[Arrays]]
    batch: int


def run_tasks(study: Study, store: Store, progress: Progress, task: Task) -> list[Arrays]:
    """What each gave, in order: read back, or run anew where one of a batch is not stored."""
    results: list[Arrays] = []
    for first in range(0, task.count, task.batch):
        numbers = range(first, min(first + task.batch, task.count))
        stored = [store.get(f"{task.kind}_{number}") for number in numbers]
        found = [arrays for arrays in stored if arrays is not None]
        if len(found) == len(numbers):
            progress(TOKENS[task.kind](study) * len(numbers))
        else:
            found = task.run(study, numbers, progress)
            for number, arrays in zip(numbers, found, strict=True):
                store.put(f"{task.kind}_{number}", arrays)
        results += found
    return results


def window_tokens(study: Study) -> int:
    """Tokens of one window, in all variants."""
    return study.config.quality.tokens * len(study.variants)


def cloze_tokens(study: Study) -> int:
    """Tokens of one item in all variants that are active in every layer; decoded ones share their context."""
    cloze = study.config.cloze
    ways = cloze.choices if study.parallel else 1
    return len(whole(study)) * (ways * cloze.context_tokens + cloze.choices * cloze.continuation_tokens)


def generation_tokens(study: Study) -> int:
    """Tokens of one continuation in all of them."""
    return study.config.generation.new_tokens * len(whole(study))


def line_tokens(study: Study) -> int:
    """Tokens of the rest of one line in all of them."""
    return study.config.lines.new_tokens * len(whole(study))


TOKENS = {"window": window_tokens, "cloze": cloze_tokens, "generation": generation_tokens, "lines": line_tokens}


def total_tokens(study: Study) -> int:
    """Sum of all numbers passed to ``progress``."""
    config = study.config
    counts = {"window": config.quality.windows, "cloze": config.cloze.items, "generation": config.generation.windows}
    counts["lines"] = len(study.lines)
    return sum(count * TOKENS[kind](study) for kind, count in counts.items())


def whole(study: Study) -> tuple[Variant, ...]:
    """The variants that are active in every layer."""
    return tuple(variant for variant in study.variants if variant.layer is None)


def _run_windows(study: Study, numbers: range, progress: Progress) -> list[Arrays]:
    """Run all variants over some windows, each in one parallel pass."""
    tokens = study.windows.tokens[numbers.start : numbers.stop]
    base = plain_logits(study.loop.model, tokens)
    results: list[Arrays] = [{} for _ in numbers]
    for variant in study.variants:
        if not study.loop.resets:
            study.loop.live.restore(study.carried.get(variant.name, study.loop.live.start))
        passed = parallel(study.loop, tokens, variant, numbers.start)
        for result, window, plain, with_policy in zip(results, tokens, base, passed, strict=True):
            result[variant.name] = per_token(plain, with_policy.logits, window)
            result |= _decisions(variant, with_policy.arrays.ids, with_policy.executed, with_policy.timing)
        if not study.loop.resets:
            study.carried[variant.name] = study.loop.live.save()
        progress(tokens.size)
    return results


def _decisions(
    variant: Variant, ids: NDArray[np.int32], executed: NDArray[np.int32], timing: StepResults | None
) -> Arrays:
    """What a pass changed of the routing, and the times of the policy's own."""
    active = slice(None) if variant.layer is None else slice(variant.layer, variant.layer + 1)
    found: Arrays = {f"{variant.name}.changed": np.array(changed_share(ids[:, active], executed[:, active]))}
    if variant.name == POLICY and timing is not None:
        found |= {name: getattr(timing, name) for name in TIMES}
    return found


def _decode_windows(study: Study, numbers: range, progress: Progress) -> list[Arrays]:
    """Run all variants over some windows step by step, all side by side."""
    loop, tokens = study.loop, study.windows.tokens[numbers.start : numbers.stop]
    base, (variants, which) = plain_logits(loop.model, tokens), _beside(study.variants, len(numbers))
    rows = tokens[which]
    if not loop.resets:
        for device, variant in zip(loop.devices(len(variants)), variants, strict=True):
            device.restore(study.carried.get(variant.name, device.start))
    measured: list[NDArray[np.float32]] = []

    def take(position: int, logits: torch.Tensor) -> None:
        if position + 1 < rows.shape[1]:
            measured.append(at_position(base[which, position], logits, rows[:, position + 1]))
        progress(len(rows))

    run = decode_rows(loop, rows, variants, [numbers[window] for window in which], take)
    results: list[Arrays] = [{} for _ in numbers]
    for number, (row, window) in enumerate(zip(run.rows, which, strict=True)):
        ids, name = np.concatenate([arrays.ids for arrays in row.arrays]), row.variant.name
        results[window][name] = np.stack([each[number] for each in measured])
        results[window] |= _decisions(row.variant, ids, np.concatenate(row.executed), row.timing())
        if not loop.resets:
            study.carried[name] = row.device.save()
    return results


def _beside(variants: Sequence[Variant], count: int) -> tuple[list[Variant], list[int]]:
    """Rows that run side by side: the variant and the place of each, all variants of a place together."""
    return [*variants] * count, [place for place in range(count) for _ in variants]


def _run_cloze(study: Study, items: range, progress: Progress) -> list[Arrays]:
    """Log-likelihood of every continuation of some items, untouched and by variant."""
    cloze, variants = study.config.cloze, whole(study)
    choices = [cloze_item(study.windows, item, cloze, study.config.quality.text_seed) for item in items]
    plain = [plain_logits(study.loop.model, tokens) for tokens in choices]
    context = cloze.context_tokens
    results: list[Arrays] = [
        {"base": log_likelihoods(logits, tokens, context)} for logits, tokens in zip(plain, choices, strict=True)
    ]
    if study.parallel:
        for result, tokens in zip(results, choices, strict=True):
            for variant in variants:
                logits = [passed.logits for passed in parallel(study.loop, tokens, variant, 0, context)]
                result[variant.name] = log_likelihoods(logits, tokens, context)
                progress(tokens.size)
        return results
    for (item, name), values in _decode_cloze(study, np.stack(choices), variants, progress).items():
        results[item][name] = values
    return results


def _decode_cloze(
    study: Study, choices: NDArray[np.int64], variants: Sequence[Variant], progress: Progress
) -> dict[tuple[int, str], NDArray[np.float64]]:
    """[choices] log-likelihoods by item and variant, of tokens [items, choices, S]: step by step, all side by side.

    The context is decoded once for all choices of an item: it is the same, and so is the state behind it.
    """
    import torch

    context, ways = study.config.cloze.context_tokens, choices.shape[1]
    rows, which = _beside(variants, len(choices))
    total: torch.Tensor | None = None

    def score(logits: torch.Tensor, following: NDArray[np.int64]) -> torch.Tensor:
        index = torch.from_numpy(following).to(logits.device)
        return logits.float().log_softmax(-1).gather(1, index[:, None])[:, 0].double()

    with CoSimulation(study.loop, rows) as run:
        for start, stop in pairwise(step_bounds(context, study.loop.step_tokens).tolist()):
            logits = run.step(choices[which, 0, start:stop])[:, -1]
            progress(len(rows) * (stop - start))
        run.branch(ways)
        logits = logits.repeat_interleave(ways, 0)
        continued = choices[which].reshape(-1, choices.shape[-1])[:, context:]
        for start, stop in pairwise(step_bounds(continued.shape[1], study.loop.step_tokens).tolist()):
            first = score(logits, continued[:, start])
            total = first if total is None else total + first
            if start + 1 < continued.shape[1]:
                steps = run.step(continued[:, start:stop])
                for position in range(start + 1, stop):
                    total = total + score(steps[:, position - start - 1], continued[:, position])
                logits = steps[:, -1]
            progress(len(continued) * (stop - start))
    assert total is not None
    values = total.cpu().numpy().reshape(-1, ways)
    return {(item, variant.name): value for item, variant, value in zip(which, rows, values, strict=True)}


def _run_generation(study: Study, numbers: range, progress: Progress) -> list[Arrays]:
    """The greedy continuations of the first tokens of some windows, untouched and by variant."""
    config = study.config.generation
    prompts = study.windows.tokens[numbers.start : numbers.stop, : config.prompt_tokens]
    return _continued(study, numbers, prompts, config.new_tokens, progress)


def _run_lines(study: Study, numbers: range, progress: Progress) -> list[Arrays]:
    """How some lines were finished, untouched and by variant."""
    prompts = study.lines.prompts[numbers.start : numbers.stop]
    found = _continued(study, numbers, prompts, study.config.lines.new_tokens, progress)
    names = ["base", *(variant.name for variant in whole(study))]
    return [
        {name: np.array(study.lines.judged(item, tokens["base"], tokens[name])) for name in names}
        for item, tokens in zip(numbers, found, strict=True)
    ]


def _continued(
    study: Study, numbers: range, prompts: NDArray[np.int64], new_tokens: int, progress: Progress
) -> list[Arrays]:
    """The greedy continuations of prompts [N, P]: `base`, `<variant>`, and `latency_ns` of the policy's own."""
    results: list[Arrays] = [{"base": tokens} for tokens in plain_continuations(study.loop.model, prompts, new_tokens)]
    variants, which = _beside(whole(study), len(numbers))
    windows = [numbers[place] for place in which]
    tokens, times = continuations(study.loop, prompts[which], new_tokens, variants, windows)
    for variant, place, row, timing in zip(variants, which, tokens, times, strict=True):
        results[place][variant.name] = row
        if variant.name == POLICY:
            results[place]["latency_ns"] = timing.latency_ns
    progress(tokens.size)
    return results
