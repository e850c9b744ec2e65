"""Gives back the memory of mapped pages that have been read, so that a long trace does not fill the memory."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HUGE_PAGE = 1 << 21
"""One touch may map as much as this, aligned; giving back less would leave the rest of it in memory."""


def release(array: NDArray[Any]) -> None:
    """Let go of the pages of a mapped file in which `array` lies; they are read again when they are needed.

    Every page of a mapped file that was ever read counts as memory of the process until then. Does nothing for arrays
    in ordinary memory, and nothing where the mapping may be written: changes would be lost.
    """
    mapping = _mapping(array)
    if mapping is None or array.size == 0 or not hasattr(mmap, "MADV_DONTNEED"):
        return
    with memoryview(mapping) as view:
        if not view.readonly:
            return
        begin = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    low, high = np.lib.array_utils.byte_bounds(array)
    start = max(0, low // _HUGE_PAGE * _HUGE_PAGE - begin)
    stop = min(len(mapping), -(-high // _HUGE_PAGE) * _HUGE_PAGE - begin)
    mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """The mapping an array is a view of."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None
