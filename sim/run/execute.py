"""Runs what a configuration describes, into a folder: a replay on one device, or a system of several devices."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from sim.assembly.build import build, open_requests, read_devices, read_host, read_prefill, read_session
from sim.assembly.compose import compose_run
from sim.assembly.replay import Replay
from sim.config import RECORDED, PrefillConfig, SessionConfig, SweepConfig, to_plain_dict, validate
from sim.machine.devices import DevicesConfig
from sim.machine.host_store import HostConfig
from sim.metrics.block_sums import BlockSums
from sim.metrics.step_table import Columns, Metrics, StepTable
from sim.paths import CONF
from sim.results.json_files import write_json
from sim.results.outputs import write_run
from sim.results.table_file import Sinks, TableFile
from sim.run.beside_plain import beside_plain
from sim.systems import like_run_of, load_system
from traces.errors import UserError
from traces.format.trace import Trace

MANY_LAYER_STEPS = 1_000_000
SOONER = "15 to 85"
"""Measured by `python -m scripts.benchmarks.engines` (README.md, Speed), for `importance` and `lru`."""


@dataclass(frozen=True, slots=True)
class DeviceRun:
    """A finished replay on one device."""

    replay: Replay
    metrics: Metrics
    what_if: dict[str, Any] | None
    """Results of the what-if scenarios, where asked for."""
    timeline: str | None
    """Where the timeline is and what it holds, where one was kept."""
    requests: Columns
    """The table of requests, as requests.parquet holds it."""


@dataclass(frozen=True, slots=True)
class SystemRun:
    """A finished run of a system of several devices."""

    text: str
    """The system's own table."""
    in_sweep: str = ""
    """What is said of it among the runs of a sweep, below its settings."""


def execute(config: DictConfig, folder: Path) -> DeviceRun | SystemRun:
    """Run a composed configuration and write its results into a folder.

    Raises: UserError where the configuration cannot be run.
    """
    if to_plain_dict(config.get("system"), "system").get("name") == "device":
        return run_device(config, folder)
    return run_system(config, folder)


def run_device(config: DictConfig, folder: Path, given: Trace | None = None) -> DeviceRun:
    """Replay on one device; write metrics, tables and provenance, and timeline and what-ifs where asked for.

    ``given``: requests in memory, in place of the configured trace.
    """
    sweep = validate(SweepConfig, to_plain_dict(config.get("sweep"), "sweep"), "sweep.")
    replay = build(config, given)
    start = time.perf_counter()
    table, blocks, timeline = replay_into(folder, replay, sweep.steps)
    wall_s = time.perf_counter() - start
    scenarios = replay_what_if(folder, replay, table) if replay.run.what_if else None
    more = beside_plain(replay, table)
    metrics = write_run(folder, replay, table, to_plain_dict(config), wall_s, blocks, more)
    return DeviceRun(replay, metrics, scenarios, timeline, table.requests())


def run_system(config: DictConfig, folder: Path) -> SystemRun:
    """Run a system of several devices on the configured requests."""
    if config.get("layers", RECORDED) != RECORDED:
        raise UserError(f"layers={config.layers}: only for system=device; systems take their depth from system.model")
    for group, as_recorded in (
        ("session", read_session(config) == SessionConfig()),
        ("prefill", read_prefill(config) == PrefillConfig()),
        ("host", read_host(config) == HostConfig()),
        ("devices", read_devices(config) == DevicesConfig()),
    ):
        if not as_recorded:
            raise UserError(f"{group}.*: only for system=device, and system={config.system.name} has its own replay")
    system = load_system(to_plain_dict(config.system, "system"))
    if "speculate" in config and to_plain_dict(config.speculate, "speculate").get("tokens"):
        raise UserError(
            f"speculate.tokens={config.speculate.tokens}: system={config.system.name} decodes a token per step: "
            "use system=device"
        )
    if hasattr(system, "beside_policies"):
        return SystemRun(*system.beside_policies(config, folder))
    values, parts = to_plain_dict(config.system), like_run_of(str(config.system.name))
    wanted = values.get("like_run", False)
    if not isinstance(wanted, bool):
        raise UserError(f"system.like_run={wanted}: must be true or false")
    if wanted:
        values, trace = as_the_run(config, values)
        said = f"taken from the run: {parts.TAKEN}; not taken: {parts.LEFT}"
    else:
        trace = open_requests(config.trace, int(config.seed))
        said = (
            "not taken from the run: model, hardware, runtime, policy and cache, which are the system's own; "
            f"system.like_run=true takes {parts.TAKEN}"
        )
    return SystemRun(f"{system.run(values, trace, folder, bool(config.timeline))}\n{said}")


def as_the_run(config: DictConfig, values: dict[str, Any]) -> tuple[dict[str, Any], Trace]:
    """(a ``system`` group with the parts of the run, the run's requests).

    Raises: UserError where the run cannot be built, or a figure of the system was set as well.
    """
    name = values["name"]
    device = config.copy()
    with open_dict(device):
        device.policy, device.timeline, device.what_if = compose_run("policy=lru").policy, False, False
    taken, trace = like_run_of(name).like_run(values, build(device))
    shipped = to_plain_dict(OmegaConf.load(CONF / "system" / f"{name}.yaml"))
    for figure, value in taken.items():
        if figure != "sources" and value != values[figure] != shipped[figure]:
            raise UserError(f"system.{figure}={values[figure]}: system.like_run=true takes it from the run; give one")
    return taken, trace


def replay_into(folder: Path, replay: Replay, steps: bool) -> tuple[StepTable, BlockSums, str | None]:
    """Replay everything; steps (where wanted) and the timeline (where one is kept) go to files as they come."""
    timeline, blocks = None, BlockSums(replay.trace.num_layers, replay.pools.slots(), replay.cache.sequential)
    with ExitStack() as stack:
        files = [stack.enter_context(TableFile(folder / "steps.parquet"))] if steps else []
        table = StepTable(replay, Sinks(blocks, *files))
        if replay.run.timeline:
            from sim.timeline.event_file import NAME, TimelineFile

            timeline = stack.enter_context(TimelineFile(folder / NAME, replay))
        total = replay.schedule.num_steps()
        hint_at_compiled(replay, total)
        bar = stack.enter_context(tqdm(total=total, unit=" steps", delay=2, disable=None, leave=False))
        for result in replay.blocks():
            table.add(result)
            if timeline is not None:
                timeline.add(result)
            bar.update(len(result.block))
    if timeline is None:
        return table, blocks, None
    return table, blocks, f"timeline of {timeline.steps} of {len(table)} steps in {timeline.path}"


def replay_what_if(folder: Path, replay: Replay, ran: StepTable) -> dict[str, Any]:
    """Replay the scenarios and write their results."""
    from sim.run.what_if import what_if

    total = replay.schedule.num_steps()
    with tqdm(total=total, desc="what if", unit=" steps", delay=2, disable=None, leave=False) as bar:
        results = what_if(replay, bar.update, ran)
    write_json(folder / "what_if.json", results)
    return results


def hint_at_compiled(replay: Replay, steps: int) -> None:
    """Say once, on standard error, that a long replay on the SimPy clock can be had sooner."""
    layer_steps = steps * replay.trace.num_layers
    if replay.timed and replay.run.engine == "simpy" and layer_steps > MANY_LAYER_STEPS:
        same = f"engine=compiled gives the same nanoseconds {SOONER} times sooner (MEASURED)"
        print(f"{layer_steps:,} layer steps on engine=simpy: {same}", file=sys.stderr)
