"""Free-running greedy continuation: every token that the policy changes is fed back and changes what follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE, PREFILL
from sim.engine.interface import StepResults
from sim.quality.decode import CoSimulation
from sim.quality.loop import Loop, Variant


def plain_continuations(model: Any, prompts: NDArray[np.int64], new_tokens: int) -> NDArray[np.int64]:
    """The untouched model's greedy continuations of prompts [N, P] -> [N, new_tokens]."""
    import torch

    device, tokens = next(model.parameters()).device, []
    inputs, past = torch.from_numpy(prompts).to(device), None
    with torch.no_grad():
        for _ in range(new_tokens):
            output = model(input_ids=inputs, past_key_values=past, use_cache=True)
            past, inputs = output.past_key_values, output.logits[:, -1:].argmax(-1)
            tokens.append(inputs.cpu().numpy())
    return np.concatenate(tokens, axis=1).astype(np.int64)


def continuations(
    loop: Loop, prompts: NDArray[np.int64], new_tokens: int, variants: Sequence[Variant], windows: Sequence[int]
) -> tuple[NDArray[np.int64], list[StepResults]]:
    """Greedy continuations of prompts [N, P] side by side, each with its variant active and its clock in the loop:
    (tokens [N, new_tokens], times of the steps of each row).

    The prompt is one prefill step; every new token but the last is fed back as a decode step.
    """
    with CoSimulation(loop, variants, windows) as run:
        tokens = [run.step(prompts, PREFILL)[:, -1].argmax(-1).cpu().numpy()]
        for _ in range(new_tokens - 1):
            tokens.append(run.step(tokens[-1][:, None], DECODE)[:, -1].argmax(-1).cpu().numpy())
    return np.stack(tokens, axis=1).astype(np.int64), [row.timing() for row in run.rows]


def continuation(
    loop: Loop, prompt: NDArray[np.int64], new_tokens: int, variant: Variant, number: int = 0
) -> tuple[NDArray[np.int64], StepResults]:
    """One of ``continuations``: of a prompt [P] -> (tokens [new_tokens], times of the steps)."""
    tokens, (timing,) = continuations(loop, prompt[None], new_tokens, [variant], [number])
    return tokens[0], timing


def match_length(base: NDArray[np.int64], changed: NDArray[np.int64]) -> int:
    """How many tokens are the same before the first that differs."""
    differs = np.flatnonzero(base != changed)
    return int(differs[0]) if differs.size else len(base)
