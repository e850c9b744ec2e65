"""A paced copy in chunks. It releases the interpreter lock, so that matmuls run in parallel."""

from __future__ import annotations

import time
from typing import Any

from numba import njit, types

CHUNK_BYTES = 256 * 1024
SPIN_NS = 60_000
"""The last stretch of a wait is spun: a sleep ends some tens of microseconds late."""
SLEEP_NS = 150_000
"""Shorter waits between two chunks are left to the next chunk."""
CLOCK = time.CLOCK_MONOTONIC

_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.CPointer(types.int64)))
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
_memcpy = types.ExternalFunction("memcpy", types.intp(types.intp, types.intp, types.intp))


def now_ns() -> int:
    """The clock that paces copies, read from Python."""
    return time.clock_gettime_ns(CLOCK)


@njit(nogil=True, cache=True)
def read_clock(spec: Any) -> int:
    """Nanoseconds; ``spec`` int64 [2] is scratch."""
    _clock_gettime(CLOCK, spec.ctypes)
    return int(spec[0] * 1_000_000_000 + spec[1])


@njit(nogil=True, cache=True)
def paced_copy(target: int, source: int, num_bytes: int, begin_ns: int, duration_ns: int, spec: Any) -> int:
    """Copy between two addresses so that it ends ``duration_ns`` after ``begin_ns`` on the clock, or as soon as it can.

    Returns when it ended. A duration of 0 does not wait.
    """
    done = 0
    while done < num_bytes:
        size = min(CHUNK_BYTES, num_bytes - done)
        _memcpy(target + done, source + done, size)
        done += size
        if duration_ns > 0 and done < num_bytes:
            ahead = begin_ns + duration_ns * done // num_bytes - read_clock(spec)
            if ahead > SLEEP_NS:
                _usleep((ahead - SPIN_NS) // 1000)
    end_ns = begin_ns + duration_ns
    now = read_clock(spec)
    while duration_ns > 0 and now < end_ns:
        if end_ns - now > SLEEP_NS:
            _usleep((end_ns - now - SPIN_NS) // 1000)
        now = read_clock(spec)
    return int(now)
