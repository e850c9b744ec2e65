"""The schema of `conf/system/expert_streaming.yaml`, with the range of every knob."""

from __future__ import annotations

from dataclasses import dataclass

from sim.systems.expert_streaming.package import Machine
from sim.systems.expert_streaming.scheme import Slicing
from traces.errors import UserError

ROUTINGS = ("auto", "trace", "drawn")
_POSITIVE = (
    "macs_per_cycle",
    "clock_hz",
    "ddr_bytes_per_s",
    "d2d_bytes_per_s",
    "weight_bytes",
    "activation_bytes",
)
_AT_LEAST_ONE = ("rows", "columns", "tokens", "draws", "iterations", "slices_per_chiplet", "baseline_slots")


@dataclass(frozen=True, slots=True)
class Settings:
    """Knobs of the system; where each figure comes from stands beside it in the yaml.

    `tokens`: tokens of one iteration. `draws`: independent layers over which the interval is taken; `iterations`:
    steps of each. `skew`: exponent of the drawn popularity. `slices_per_chiplet`: an expert is cut into this many
    micro-slices per die of the package. `slots`: micro-slices that one die can hold; null: three for every die of the
    package. `to_emptiest`: a micro-slice loads to the die with most free slots. `slack`: share of the tokens that may
    wait for the next iteration; `refill`: other tokens take their room. `baseline_slots`: whole experts that one die of
    the baseline can hold.
    """

    name: str
    model: str
    rows: int
    columns: int
    tokens: int
    draws: int
    iterations: int
    routing: str
    skew: float
    slices_per_chiplet: int
    slots: int | None
    paired: bool
    to_emptiest: bool
    slack: float
    refill: bool
    baseline_slots: int
    macs_per_cycle: float
    clock_hz: float
    start_s: float
    ddr_bytes_per_s: float
    d2d_bytes_per_s: float
    d2d_latency_s: float
    weight_bytes: float
    activation_bytes: float
    seed: int

    def __post_init__(self) -> None:
        for field in _POSITIVE:
            if not 0 < getattr(self, field) < float("inf"):
                raise UserError(f"system.{field}={getattr(self, field)}: must be above 0 and finite")
        for field in _AT_LEAST_ONE:
            if getattr(self, field) < 1:
                raise UserError(f"system.{field}={getattr(self, field)}: must be at least 1")
        for field in ("start_s", "d2d_latency_s", "skew"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise UserError(f"system.{field}={getattr(self, field)}: must be at least 0 and finite")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"system.seed={self.seed}: must be between 0 and 2**63 - 1")
        if self.routing not in ROUTINGS:
            raise UserError(f"system.routing={self.routing}: must be one of {', '.join(ROUTINGS)}")
        if self.slots is not None and self.slots < self.rows * self.columns:
            least = self.rows * self.columns
            raise UserError(f"system.slots={self.slots}: must be at least {least}, one for every die of the package")
        if not 0 <= self.slack < 1:
            raise UserError(f"system.slack={self.slack}: must be at least 0 and below 1")
        if self.slack and self.iterations < 2:
            raise UserError(f"system.iterations={self.iterations}: must be at least 2 where system.slack is above 0")

    def machine(self) -> Machine:
        """The package."""
        return Machine(
            rows=self.rows,
            columns=self.columns,
            macs_per_s=self.macs_per_cycle * self.clock_hz,
            ddr_bytes_per_s=self.ddr_bytes_per_s,
            d2d_bytes_per_s=self.d2d_bytes_per_s,
            d2d_latency_ns=round(self.d2d_latency_s * 1e9),
            start_ns=round(self.start_s * 1e9),
        )

    def slicing(self) -> Slicing:
        """How experts are cut and held."""
        chiplets = self.rows * self.columns
        slots = 3 * chiplets if self.slots is None else self.slots
        return Slicing(self.slices_per_chiplet * chiplets, slots, self.paired, self.to_emptiest)
