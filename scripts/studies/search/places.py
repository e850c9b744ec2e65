"""The map of machines: places that are searched, and places that the search never sees."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from scripts.studies.smoe.replays import CPU_RATIOS, SETUPS, STATED_HOST_S, Machine
from sim.machine.machine import Machine as SimulatedMachine
from sim.machine.uncertainty import drawn_machine
from traces.format.trace import Geometry

HOSTS_S = (0.0, STATED_HOST_S, 3e-3)
BATCHES = (1, 3)
UNSEEN = (
    ("rtx4070_ddr5", "deepseek_moe_16b", 0.35),
    ("rtx4090", "xverse_moe_a4_2b", 0.30),
    ("rtx2080_ddr4", "qwen2_57b_a14b", 0.25),
)
"""Hardware of the held-out places with sizes and alpha of the paper's three models."""
UNSEEN_PLACES, SEED = 12, 0


@dataclass(frozen=True, slots=True)
class Place:
    """A machine, a capacity and a batch size; ``alpha`` is what `importance` takes there."""

    hardware: str
    model: str
    alpha: float
    fraction: float
    host_s: float
    cpu_ratio: float
    batch: int

    def machine(self, geometry: Geometry, draw: int | None = None) -> SimulatedMachine:
        """The machine under SMoE's runtime; ``draw``: the plausible one of that number instead."""
        machine = Machine(self.host_s, self.cpu_ratio).apply(self.hardware, geometry)
        return machine if draw is None else drawn_machine(machine, SEED, draw)

    @property
    def label(self) -> str:
        host, ratio = f"{self.host_s * 1e3:.2g} ms", f"{self.cpu_ratio:.2f}"
        return f"{self.hardware}, {self.fraction:.2f} fit, host {host}, CPU {ratio}, batch {self.batch}"


def searched() -> list[Place]:
    """The paper's set-ups at both capacities, over host time, CPU speed and batch, in an order that mixes them."""
    grid = itertools.product(SETUPS, (False, True), HOSTS_S, CPU_RATIOS, BATCHES)
    places = [
        Place(s.hardware, s.model, s.alpha, s.older_fraction if older else s.fraction, host_s, ratio, batch)
        for s, older, host_s, ratio, batch in grid
    ]
    return [places[i] for i in np.random.default_rng(SEED).permutation(len(places))]


def unseen(count: int = UNSEEN_PLACES) -> list[Place]:
    """Machines that are not searched, drawn evenly: host .05 to 3 ms (its logarithm), a CPU expert .25 to 1.3 copies,
    an eighth to a half of the experts; each at both batch sizes."""
    random, found = np.random.default_rng(SEED + 1), []
    for number in range(count):
        hardware, model, alpha = UNSEEN[number % len(UNSEEN)]
        host_s = float(np.exp(random.uniform(np.log(5e-5), np.log(3e-3))))
        ratio, fraction = float(random.uniform(0.25, 1.3)), float(random.uniform(0.125, 0.5))
        found += [Place(hardware, model, alpha, fraction, host_s, ratio, batch) for batch in BATCHES]
    return found
