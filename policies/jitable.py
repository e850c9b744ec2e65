"""The mark of a function that decisions call, so that numba compiles it along with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from numba.extending import register_jitable

Helper = TypeVar("Helper", bound=Callable[..., object])


def jitable(helper: Helper) -> Helper:
    """Let compiled decisions call a function, which stays a plain one for Python. It obeys the rules of a decision."""
    register_jitable(helper)
    return helper
