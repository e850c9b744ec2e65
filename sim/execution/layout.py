"""Layout of an expert's tensors in one contiguous range of bytes, so that moving an expert is one copy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64
"""Of every tensor, so that arithmetic on it does not depend on where it lies."""


def aligned(num_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """Shapes and types of an expert's tensors with their byte offsets; ``stride`` bytes from expert to expert."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    offsets: tuple[int, ...]
    stride: int

    @classmethod
    def of(cls, tensors: Iterable[tuple[tuple[int, ...], Any]]) -> ExpertLayout:
        """The layout of tensors given as (shape, torch type), one after the other."""
        shapes, dtypes, offsets, end = [], [], [], 0
        for shape, dtype in tensors:
            size = dtype.itemsize
            for length in shape:
                size *= length
            shapes.append(tuple(shape))
            dtypes.append(dtype)
            offsets.append(end)
            end += aligned(size)
        return cls(tuple(shapes), tuple(dtypes), tuple(offsets), end)

    def views(self, arena: torch.Tensor, index: int) -> tuple[torch.Tensor, ...]:
        """The tensors of the expert at ``index`` of an arena of bytes."""
        tensors = []
        for shape, dtype, offset in zip(self.shapes, self.dtypes, self.offsets, strict=True):
            start, size = index * self.stride + offset, dtype.itemsize
            for length in shape:
                size *= length
            tensors.append(arena[start : start + size].view(dtype).view(shape))
        return tuple(tensors)
