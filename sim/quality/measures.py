"""How far a changed model is from the untouched one, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

COLUMNS = ("nll_base", "nll", "kl", "agree", "correct_base", "correct")
"""Of a token: -ln p of the next token of the text, untouched and changed (nats); KL(untouched || changed) over the
vocabulary (nats); whether both put the same token first; whether that is the text's, untouched and changed."""
CHUNK_TOKENS = 64


def at_position(base: torch.Tensor, changed: torch.Tensor, following: NDArray[np.int64]) -> NDArray[np.float32]:
    """[N, len(COLUMNS)] of logits [N, V] of both models, with the tokens [N] that follow in the text."""
    import torch

    measures: NDArray[np.float32] = (
        _chunk(base.float(), changed.float(), torch.from_numpy(following).to(base.device)).cpu().numpy()
    )
    return measures


def per_token(base: torch.Tensor, changed: torch.Tensor, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """[S-1, len(COLUMNS)] of logits [S, V] of both models over a window [S]."""
    import torch

    following = torch.from_numpy(tokens[1:]).to(base.device)
    chunks = []
    for start in range(0, len(following), CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, len(following))
        chunks.append(_chunk(base[start:stop].float(), changed[start:stop].float(), following[start:stop]))
    measures: NDArray[np.float32] = torch.cat(chunks).cpu().numpy()
    return measures


def _chunk(base: torch.Tensor, changed: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    import torch

    p, q = base.log_softmax(-1), changed.log_softmax(-1)
    first, second = base.argmax(-1), changed.argmax(-1)
    columns = (
        -p.gather(1, following[:, None])[:, 0],
        -q.gather(1, following[:, None])[:, 0],
        (p.exp() * (p - q)).sum(-1).clamp_min(0.0),  # rounding leaves tiny negative numbers
        (first == second).float(),
        (first == following).float(),
        (second == following).float(),
    )
    return torch.stack(columns, dim=1)
