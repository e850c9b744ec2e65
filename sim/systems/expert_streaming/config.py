"""The schema of `conf/system/expert_streaming.yaml`, with the range of every knob."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sim.machine.durations import whole_ns
from sim.ranges import Few, NotNegative, OneOf, Positive, Range, Seed, check_ranges
from sim.systems.expert_streaming.package import Machine
from sim.systems.expert_streaming.scheme import Slicing
from traces.errors import UserError

ROUTINGS = ("auto", "trace", "drawn")


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
    rows: Few
    columns: Few
    tokens: Few
    draws: Few
    iterations: Few
    routing: Annotated[str, OneOf(*ROUTINGS)]
    skew: NotNegative
    slices_per_chiplet: Few
    slots: int | None
    paired: bool
    to_emptiest: bool
    slack: Annotated[float, Range(0, 1, below=True)]
    refill: bool
    baseline_slots: Few
    macs_per_cycle: Positive
    clock_hz: Positive
    start_s: NotNegative
    ddr_bytes_per_s: Positive
    d2d_bytes_per_s: Positive
    d2d_latency_s: NotNegative
    weight_bytes: Positive
    activation_bytes: Positive
    seed: Seed
    like_run: bool = False
    """The parts of the run were taken (`sim.systems.expert_streaming.like_run`)."""

    def __post_init__(self) -> None:
        check_ranges(self, "system.")
        if self.slots is not None and self.slots < self.rows * self.columns:
            least = self.rows * self.columns
            raise UserError(f"system.slots={self.slots}: must be at least {least}, one for every die of the package")
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
            d2d_latency_ns=whole_ns(self.d2d_latency_s),
            start_ns=whole_ns(self.start_s),
        )

    def slicing(self) -> Slicing:
        """How experts are cut and held."""
        chiplets = self.rows * self.columns
        slots = 3 * chiplets if self.slots is None else self.slots
        return Slicing(self.slices_per_chiplet * chiplets, slots, self.paired, self.to_emptiest)
