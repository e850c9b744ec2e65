"""Free-running greedy continuation: every token that the policy changes is fed back and changes what follows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE, PREFILL
from sim.engine.interface import StepResults
from sim.quality.decode import CoSimulation
from sim.quality.loop import Loop, Variant


def plain_continuation(model: Any, prompt: NDArray[np.int64], new_tokens: int) -> NDArray[np.int64]:
    """The untouched model's greedy continuation of a prompt [P] -> [new_tokens]."""
    import torch

    device, tokens = next(model.parameters()).device, []
    inputs, past = torch.from_numpy(prompt[None]).to(device), None
    with torch.no_grad():
        for _ in range(new_tokens):
            output = model(input_ids=inputs, past_key_values=past, use_cache=True)
            past, inputs = output.past_key_values, output.logits[:, -1:].argmax(-1)
            tokens.append(int(inputs))
    return np.array(tokens, np.int64)


def continuation(
    loop: Loop, prompt: NDArray[np.int64], new_tokens: int, variant: Variant, number: int = 0
) -> tuple[NDArray[np.int64], StepResults]:
    """The greedy continuation with the policy active, the clock in the loop: (tokens [new_tokens], times of the steps).

    The prompt is one prefill step; every new token but the last is fed back as a decode step.
    """
    tokens = []
    with CoSimulation(loop, variant, number) as run:
        logits = run.step(prompt, PREFILL)
        tokens.append(int(logits[-1].argmax()))
        for _ in range(new_tokens - 1):
            logits = run.step(np.array(tokens[-1:], np.int64), DECODE)
            tokens.append(int(logits[-1].argmax()))
    return np.array(tokens, np.int64), run.timing()


def match_length(base: NDArray[np.int64], changed: NDArray[np.int64]) -> int:
    """How many tokens are the same before the first that differs."""
    differs = np.flatnonzero(base != changed)
    return int(differs[0]) if differs.size else len(base)
