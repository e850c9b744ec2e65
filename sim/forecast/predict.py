"""Tokens per second of a plan with an interval, by what published speeds teach, calibrated by one's own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.forecast.mixed_layers import Layers, Mixed
from sim.forecast.shipped import open_problem, shipped_parameters, times_width
from sim.machine.model import Dimensions
from sim.validation.published.corpus.estimate import (
    FACTORS,
    ROW_NOISE,
    UNKNOWN_SPREAD,
    Problem,
    Vector,
    calibrate,
    problem_of,
    seconds,
)
from sim.validation.published.corpus.parts import STATED
from sim.validation.published.corpus.rule import Setting


@dataclass(frozen=True, slots=True)
class Forecast:
    """Tokens per second of one plan, SIMULATED terms with FITTED shares; ``low`` and ``high`` hold 90 %."""

    tokens_per_s: float
    low: float
    high: float
    rows_before: int
    """Rows of this machine and of this kind of plan that calibrated it."""
    shares: dict[str, float]
    """Of a token's time: what it waits for."""
    plain: float = 0.0
    """Tokens per second without rows of this machine."""
    rows: tuple[str, ...] = ()
    """Names of the rows, with their models."""
    as_wide: bool = True
    """The interval is as wide as without rows."""
    other_rows: int = 0
    """Rows of this machine with another runtime or kind of placement, which moved what the machine's parts reach."""
    close: str = ""
    """What would be waited for next, hardly less than what is: RAM behind the CPU's cores, or the reverse."""

    @property
    def moved(self) -> bool:
        """Whether rows of this machine have a say in it."""
        return self.rows_before > 0 or self.other_rows > 0


def forecast(
    setting: Setting,
    own_rows: Sequence[Setting],
    with_fewer_hits: Setting | None = None,
    layers: Layers = (),
    fewer_layers: Layers = (),
) -> Forecast:
    """The forecast of a setting.

    ``own_rows``: measured on the same machine. Those of the setting's group calibrate it; others move what memories,
    cores, link and storage reach, not its software, and make the interval no narrower. Rows that no factors of one
    machine explain widen the interval by how much they disagree; where all are of other models it stays as wide as
    without them: nothing published says how far a factor carries. ``layers`` [top_k + 1]: share of layers that miss so
    many of their experts, each computed on the CPU; the mean time of such layers counts, for the CPU's time hides
    behind the GPU's in some only. ``with_fewer_hits``, ``fewer_layers``: the same where hits, which nobody measured,
    are one standard error lower.
    """
    parameters = shipped_parameters()
    rows = [row for row in own_rows if row.kind == setting.kind]
    others = [row for row in own_rows if row.kind != setting.kind]
    mixed = Mixed.of(setting, layers)
    before = open_problem(rows)
    if len(before):
        before = replace(before, spread=np.repeat(mixed.problem.spread[:1], len(before), axis=0))
    nothing = np.zeros(len(FACTORS))
    factors = calibrate(before, parameters, open_problem(others))
    value, plain = mixed.seconds(parameters, factors), mixed.seconds(parameters, nothing)
    width = mixed.width(parameters, factors, before) * disagreement(before, parameters, factors)
    stage = len(rows)
    if all(model_key(row.model) != model_key(setting.model) for row in rows):
        stage, width = 0, max(width, mixed.width(parameters, nothing, open_problem([])))
    if with_fewer_hits is not None:
        slower = Mixed.of(with_fewer_hits, fewer_layers).seconds(parameters, factors)
        width = float(np.hypot(width, np.log(slower / value)))
    factor = float(np.exp(times_width(stage) * width))
    names = tuple(f"{row.row.row_id or 'the row before'} ({row.row.model})" for row in (*rows, *others))
    shares = mixed.parts(parameters, factors)
    close = mixed.close(parameters, factors)
    low, high = 1 / value / factor, factor / value
    return Forecast(1 / value, low, high, len(rows), shares, 1 / plain, names, stage == 0, len(others), close)


def model_key(sizes: Dimensions) -> tuple[float, ...]:
    """What tells models apart, whatever they are called: sizes and bits."""
    return (sizes.num_layers, sizes.num_experts, sizes.top_k, sizes.hidden_size, round(sizes.weight_bits, 1))


def disagreement(rows: Problem, parameters: Vector, factors: Vector) -> float:
    """How many times a row's own noise rows lie from what one machine's factors make of them; 1 where they agree."""
    if not len(rows):
        return 1.0
    left = (np.log(seconds(rows, parameters, factors)) - rows.log_measured_s) / ROW_NOISE
    return max(1.0, float(np.sqrt(np.mean(left**2))))


def most_tokens_per_s(setting: Setting) -> float:
    """Tokens per second that no software reaches: bytes that a token must read over nominal rates, no other cost.

    Where nobody stated the rate of RAM or of the link, what its kind allows beyond the datasheet is allowed here, too.
    """
    (column,) = problem_of([setting]).terms
    rates = setting.rates
    ram = 1.0 if rates.ram_known == STATED else 1 + UNKNOWN_SPREAD
    link = 1.0 if rates.link_known == STATED else 1 + UNKNOWN_SPREAD
    least = column.gpu_s + max(column.dram_s / ram, column.beside_s) + max(column.link_s / link, column.hits_s)
    return (1 + OVERCLOCK) / max(least, 1e-9)


OVERCLOCK = 0.1
"""Beyond a nominal rate: ESTIMATED, what memory is run at above its name."""
