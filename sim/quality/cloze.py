"""Multiple-choice cloze: the true continuation of a held-out text among continuations of other held-out texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.quality.settings import ClozeConfig
from sim.quality.windows import Windows
from traces.errors import UserError

if TYPE_CHECKING:
    import torch


def cloze_item(windows: Windows, number: int, config: ClozeConfig, seed: int) -> NDArray[np.int64]:
    """[choices, context + continuation] tokens: the true continuation first, then those of windows of other documents,
    of the same domain where there are enough.

    Raises: UserError where there are too few documents.
    """
    cut, stop = config.context_tokens, config.context_tokens + config.continuation_tokens
    others = [i for i in range(len(windows)) if windows.documents[i] != windows.documents[number]]
    near = [i for i in others if windows.domains[i] == windows.domains[number]]
    pool = near if len(near) >= config.choices - 1 else others
    if len(pool) < config.choices - 1:
        raise UserError(
            f"cloze.choices={config.choices}: the windows come from too few documents; lower it or set cloze.items=0"
        )
    drawn = np.random.default_rng((seed, number)).choice(pool, config.choices - 1, replace=False)
    context = windows.tokens[number, :cut]
    return np.stack([np.concatenate([context, windows.tokens[i, cut:stop]]) for i in (number, *drawn.tolist())])


def log_likelihoods(logits: Iterable[torch.Tensor], tokens: NDArray[np.int64], context: int) -> NDArray[np.float64]:
    """[N] ``log_likelihood`` of windows [N, S]."""
    return np.array([log_likelihood(*window, context) for window in zip(logits, tokens, strict=True)])


def log_likelihood(logits: torch.Tensor, tokens: NDArray[np.int64], context: int) -> float:
    """Sum of ln p of the tokens after ``context``, of logits [S, V] over tokens [S]."""
    import torch

    following = torch.from_numpy(tokens[context:]).to(logits.device)
    scores = logits[context - 1 : -1].float().log_softmax(-1).gather(1, following[:, None])
    return float(scores.double().sum())
