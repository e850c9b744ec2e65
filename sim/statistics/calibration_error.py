"""The error of a simulated time that comes from uncertain figures of hardware and runtime."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from sim.machine.machine import PARAMETERS
from sim.machine.parts import PARTS
from sim.metrics.registry import Quantity
from sim.statistics.bootstrap import Vector

PART_FIGURES = {
    part: tuple(name for name, parameter in PARAMETERS.items() if part in parameter.parts) for part in PARTS
}
"""Which figures of hardware and runtime each part of a token's time rests on."""


def time_shares(sums: Mapping[str, Vector], quantity: Quantity) -> dict[str, float]:
    """Share of each part in the time that a quantity measures: of decode tokens, of prefill steps, or of all steps.

    `sums`: those of a run, [2, B] by phase and block.
    """
    part = quantity.name.partition("_s_per_token.")[2]
    if part:
        return {part: 1.0}
    phases, stem = {"ttft_s": ((0,), ""), "latency_s": ((0, 1), "")}.get(quantity.request_time or "", ((1,), "token_"))
    columns = {part: sums.get(f"{stem}{part}_ns") for part in PART_FIGURES}
    parts = {part: float(column[list(phases)].sum()) for part, column in columns.items() if column is not None}
    whole = sum(parts.values())
    return {part: spent / whole for part, spent in parts.items()} if whole else {}


Elasticities = Mapping[str, Mapping[str, float]]
"""Figure -> part -> relative change of the part over that of the figure, see ``sim.machine.uncertainty``."""


def sensitivities(
    sums: Mapping[str, Vector], quantity: Quantity, errors: Mapping[str, float], known: Elasticities
) -> dict[str, float]:
    """Relative change of the metric where each uncertain figure of hardware and runtime is one standard error higher.

    First order: error times elasticity times the share of the part. Waits are taken to scale with what is waited for.
    Of a run that states no elasticities the least certain figure behind a part moves all of it, which is the most that
    it can do.
    """
    effects: dict[str, float] = {}
    shares = time_shares(sums, quantity)
    if known:
        return {
            figure: errors[figure] * sum(shares.get(part, 0.0) * elasticity for part, elasticity in parts.items())
            for figure, parts in known.items()
            if errors.get(figure, 0.0) > 0
        }
    for part, share in shares.items():
        figure = max(PART_FIGURES[part], key=lambda name: errors.get(name, 0.0))
        if errors.get(figure, 0.0) > 0:
            effects[figure] = effects.get(figure, 0.0) + share * errors[figure]
    return effects


Effects = dict[tuple[str, str], float]
"""(machine, figure) -> change of a value by one standard error of the figure; a figure moves all its runs together."""


def machine_effects(
    sums: Mapping[str, Vector],
    quantity: Quantity,
    errors: Mapping[str, float],
    known: Elasticities,
    hardware: str,
    value: float,
) -> Effects:
    """What the uncertain figures of a machine do to a value; nothing to what is no time."""
    if not errors or not quantity.is_time or np.isnan(value):
        return {}
    return {(hardware, figure): error * value for figure, error in sensitivities(sums, quantity, errors, known).items()}


def minus(one: Effects, other: Effects) -> Effects:
    """Effects on the difference of two values: what they share cancels."""
    return {key: one.get(key, 0.0) - other.get(key, 0.0) for key in {**one, **other}}


def machine_error(effects: Effects) -> float:
    """Standard error that the effects cause together."""
    return float(np.sqrt(sum(effect**2 for effect in effects.values())))


def machine_draws(effects: Effects, draws: int, seed: int) -> Vector:
    """What the effects do in every draw of the machine: one normal number per figure, [draws]."""
    total = np.zeros(draws)
    for (hardware, figure), effect in effects.items():
        name = zlib.crc32(f"{hardware} {figure}".encode())
        total += effect * np.random.default_rng([seed, 1, name]).standard_normal(draws)
    return total
