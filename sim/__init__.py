"""Replays routing traces on a modelled device under pluggable policies. Start with ``python -m sim --help``.

From Python: `sim.load_trace` and `sim.replay`, see `sim.library.replays`; they are imported when they are first used.
"""

import importlib
from typing import Any

import traces  # noqa: F401  (settles where compiled code is cached)

_LIBRARY = ("load_trace", "replay", "Result")


def __getattr__(name: str) -> Any:
    if name in _LIBRARY:
        return getattr(importlib.import_module("sim.library.replays"), name)
    raise AttributeError(f"module 'sim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LIBRARY})
