"""Fetch nothing early."""

from dataclasses import dataclass

from policies.base import Prefetch


@dataclass(frozen=True)
class NoPrefetch(Prefetch):
    """Fetch nothing early: the part switched off."""
