"""Takes all samples of a calibration, interleaved: two runs of the runtime and single operations, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from policies.assignment.link_only import LinkOnly
from policies.base import Policy
from policies.eviction.lru import Lru
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.substitution.none import NoSubstitution
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.calibrate.in_situ import Portion, Probe
from sim.calibrate.micro import Bench, decisions
from sim.calibrate.samples import MIN_SAMPLES, Sample, gate
from sim.config import RunConfig
from sim.execution.load import Load, Snapshot
from sim.execution.run import check, fresh, undisturbed
from sim.execution.settings import RealSettings
from sim.execution.synthetic import synthetic_model
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime
from sim.ranges import Range, Share, check_ranges
from traces.errors import UserError
from traces.format.trace import Trace

ROUNDS = 3
"""Parts of a calibration whose means are compared: what drifts shows between them."""
MAX_EXTENSION = 1.4
"""How many times longer than asked a calibration goes on while the machine is not quiet enough."""
DECISION_STEPS = 20
STAGING_SLOTS = 2
LRU = Policy("lru", Lru(), NoPrediction(), NoPrefetch(), NoSubstitution(), LinkOnly())


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """The knobs of a calibration.

    ``seconds``: how long to measure; ``portion_s``: how long each run of the runtime goes on at a time.
    ``max_disturbance``: share of all cores that others may have during a sample that counts. ``hits_fraction``,
    ``misses_fraction``: capacities of the two runs. ``warm_up_steps``: executed before anything counts.
    ``max_wait_share``: share of a step's time that its threads may have waited for a core; other steps do not count.
    """

    seconds: Annotated[float, Range(1, 3600)] = 70.0
    portion_s: Annotated[float, Range(0.01, 60)] = 0.8
    max_disturbance: Share = 0.1
    max_wait_share: Share = 0.05
    hits_fraction: Annotated[float, Range(0.01, 1)] = 0.75
    misses_fraction: Annotated[float, Range(0.01, 1)] = 0.125
    warm_up_steps: Annotated[int, Range(0, 1000)] = 4

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.misses_fraction < self.hits_fraction:
            raise UserError(f"misses_fraction={self.misses_fraction}: must be below hits_fraction={self.hits_fraction}")


@dataclass(slots=True)
class Measured:
    """All samples of a calibration, and the replays of its two runs."""

    config: CalibrationConfig
    settings: RealSettings
    replays: dict[str, Replay]
    samples: list[Sample] = field(default_factory=list)
    portions: list[Portion] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_threads: int = 1
    """That compute experts on the CPU."""


def neutral_machine(settings: RealSettings) -> Machine:
    """A machine for replays whose times do not matter yet."""
    rate = settings.link_bytes_per_s or 1e10
    name = "not yet calibrated"
    return Machine(Hardware(name, 2**62, 1e10, 1e11, 0.0, rate), Runtime(name, staging_slots=STAGING_SLOTS))


def two_replays(trace: Trace, config: CalibrationConfig, settings: RealSettings) -> dict[str, Replay]:
    """The runs: mostly hits, mostly misses."""
    fractions = {"hits": config.hits_fraction, "misses": config.misses_fraction}
    setup = DeviceSetup(LRU, neutral_machine(settings), run=RunConfig(engine="compiled"))
    replays = {
        name: assemble(trace, replace(setup, cache=CacheConfig(fraction=fraction)), settings.geometry(trace))
        for name, fraction in fractions.items()
    }
    for replay in replays.values():
        check(replay, settings)
    return replays


def measure(
    trace: Trace,
    config: CalibrationConfig,
    settings: RealSettings,
    progress: Callable[[float], Any] = lambda share: None,
) -> Measured:
    """Measure until the time is over, somewhat longer where too few samples were taken in quiet.

    Raises: UserError where the trace is too short.
    """
    settings = replace(settings, steps=None, skip_steps=0)
    measured = Measured(config, settings, two_replays(trace, config, settings))
    begin = time.perf_counter()
    with undisturbed(), ExitStack() as stack:
        probes = [Probe(name, replay, settings) for name, replay in measured.replays.items()]
        for probe in probes:
            stack.enter_context(probe)
            probe.warm_up(config.warm_up_steps)
        measured.cpu_threads = torch_threads()
        bench = Bench(settings, synthetic_model(settings, trace.num_layers, trace.num_experts))
        rows = decision_rows(measured.replays["misses"])
        start, cycles, spent = time.perf_counter(), 0, 0.0
        while (
            cycles < MIN_SAMPLES
            or spent < config.seconds
            or (spent < MAX_EXTENSION * config.seconds and not quiet(measured))
        ):
            number = min(ROUNDS - 1, int(ROUNDS * spent / config.seconds))
            _cycle(measured, probes, bench, rows, number)
            cycles, spent = cycles + 1, time.perf_counter() - start
            progress(min(1.0, spent / config.seconds))
    measured.wall_s = time.perf_counter() - begin
    return measured


def _cycle(measured: Measured, probes: list[Probe], bench: Bench, rows: list[tuple[Any, ...]], number: int) -> None:
    """Both runs for a while, and every operation once."""
    for probe in probes:
        portion = probe.portion(number, measured.config.portion_s, measured.config.max_wait_share)
        if portion is None:
            raise UserError(
                f"the trace has too few decode steps for {measured.config.seconds:g} s of calibration: give a longer "
                "one, or fewer seconds"
            )
        measured.portions.append(portion)
        measured.samples.append(portion.sample)
    before = Snapshot.now()
    samples = [*bench.all(number), decisions(probes[-1].replay.spec, rows, number)]
    load = Load.between(before, Snapshot.now())
    for sample in samples:
        sample.load = load
    measured.samples += samples


def quiet(measured: Measured) -> bool:
    """Whether enough samples of each run count."""
    return all(gate(measured.samples, name, measured.config.max_disturbance).quiet for name in measured.replays)


def decision_rows(replay: Replay) -> list[tuple[Any, ...]]:
    """Router output of some decode steps."""
    reader, steps = fresh(replay.reader), []
    for block in replay.schedule.blocks(reader.block_rows()):
        data = reader.read(block)
        for number in range(len(block)):
            if block.bounds[number + 1] - block.bounds[number] == 1:
                steps.append(data.rows(int(block.bounds[number]), int(block.bounds[number + 1])))
            if len(steps) == DECISION_STEPS:
                return steps
    return steps


def torch_threads() -> int:
    """Threads that torch computes with now."""
    import torch

    return int(torch.get_num_threads())
