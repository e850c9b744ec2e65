"""How many threads the model runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from traces.torch_threads import single_thread

if TYPE_CHECKING:
    import torch

SMALL = 100_000_000
"""Parameters below which one thread is faster: several spend more time on handing over tiny matrices than they save."""


@contextmanager
def fitting_threads(model: torch.nn.Module) -> Iterator[None]:
    """One thread for a small model, torch's own choice for others."""
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL
    with single_thread() if small else nullcontext():
        yield
