"""The error of a simulated time that comes from uncertain parameters of the hardware file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from sim.machine.hardware import PARAMETERS
from sim.machine.parts import PARTS
from sim.metrics.registry import Quantity
from sim.statistics.bootstrap import Vector

PART_FIGURES = {
    part: tuple(name for name, parameter in PARAMETERS.items() if part in parameter.parts) for part in PARTS
}
"""Which figures of a hardware file each part of a token's time rests on."""


def time_shares(blocks: pd.DataFrame, quantity: Quantity) -> dict[str, float]:
    """Share of each part in the time that a quantity measures: of decode tokens, of prefill steps, or of all steps."""
    part = quantity.name.partition("_s_per_token.")[2]
    if part:
        return {part: 1.0}
    phases, stem = {"ttft_s": ((0,), ""), "latency_s": ((0, 1), "")}.get(quantity.request_time or "", ((1,), "token_"))
    rows = blocks[blocks["phase"].isin(phases)]
    parts = {part: float(rows[f"{stem}{part}_ns"].sum()) for part in PART_FIGURES if f"{stem}{part}_ns" in rows}
    whole = sum(parts.values())
    return {part: spent / whole for part, spent in parts.items()} if whole else {}


def sensitivities(blocks: pd.DataFrame, quantity: Quantity, errors: Mapping[str, float]) -> dict[str, float]:
    """Relative standard error of the metric that each uncertain figure of the hardware file causes.

    First order: a part of a token's time that rests on a figure of relative standard error s has that error itself; of
    several figures behind one part the least certain counts. Waits are taken to scale with what is waited for.
    """
    effects: dict[str, float] = {}
    for part, share in time_shares(blocks, quantity).items():
        figure = max(PART_FIGURES[part], key=lambda name: errors.get(name, 0.0))
        if errors.get(figure, 0.0) > 0:
            effects[figure] = effects.get(figure, 0.0) + share * errors[figure]
    return effects


def calibration_draws(effects: Mapping[str, float], hardware: str, draws: int, seed: int) -> Vector:
    """Relative error of a time in every draw: one normal number per figure and machine, common to all its runs.

    `effects`: what `sensitivities` gives.
    """
    total = np.zeros(draws)
    for figure, error in effects.items():
        name = zlib.crc32(f"{hardware} {figure}".encode())
        total += error * np.random.default_rng([seed, 1, name]).standard_normal(draws)
    return total
