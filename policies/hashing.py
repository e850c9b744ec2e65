"""Randomness without state: a number that depends on nothing but a seed and counters."""

from __future__ import annotations

import numpy as np

from policies.jitable import jitable


@jitable
def mix(value: np.uint64) -> np.uint64:
    """One round of SplitMix64. Source: Steele, Lea, Flood, OOPSLA 2014, https://doi.org/10.1145/2660193.2660195."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@jitable
def uniform(seed: int, first: int, second: int, third: int) -> float:
    """A float64 in [0, 1) that is a hash of its arguments, for example of seed, ``now``, layer and expert."""
    value = mix(np.uint64(seed))
    value = mix(value ^ np.uint64(first))
    value = mix(value ^ np.uint64(second))
    value = mix(value ^ np.uint64(third))
    return float(value >> np.uint64(11)) * 2.0**-53
