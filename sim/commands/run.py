"""Replay a trace under a policy on a modelled machine and report hit rate, bytes and latency.

  python -m sim run policy=importance                      the embedded trace, SMoE's policy
  python -m sim run policy=lru cache.fraction=0.5          half of the experts fit
  python -m sim run policy=importance policy/eviction=lru  one part exchanged
  python -m sim run trace.path=my.safetensors model=qwen3_30b_a3b hardware=rtx4090
  python -m sim run hardware=mine.yaml                     a machine that python -m sim calibrate has measured
  python -m sim run -m policy=lru,importance,belady cache.fraction=0.25,0.5    a sweep
  python -m sim plot FOLDER                                figures of a run or sweep

  python -m sim run timeline=true                          what GPU, link and CPU did when, for https://ui.perfetto.dev
  python -m sim run what_if=true                           what a faster link, a perfect prefetch, ... would gain

Groups: policy, policy/eviction, policy/prediction, policy/prefetch, policy/substitution, policy/assignment, hardware,
model, trace, engine. Capacity is one of cache.fraction, cache.slots_per_layer, cache.bytes (default: fraction 0.25).
Results: metrics.json, steps.parquet, requests.parquet, provenance.json (timeline.json.gz, what_if.json where asked for)
in the folder that is printed last.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sim.errors import one_line
from sim.hardware import path_overrides
from traces.errors import UserError
from traces.numba_cache import nothing_compiled

if TYPE_CHECKING:
    from sim.metrics import StepTable
    from sim.replay import Replay
    from sim.timeline import TimelineFile

CONF = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(config: DictConfig) -> None:
    """One replay; Hydra calls this once per job of a sweep."""
    try:
        replay_once(config)
    except (UserError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode != RunMode.RUN:
            raise  # Hydra says which job of the sweep it was
        remove_unused(Path(HydraConfig.get().runtime.output_dir))
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from error


def remove_unused(folder: Path) -> None:
    """Take away the output folder of a run that was refused before it wrote anything."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".hydra"}:
        shutil.rmtree(folder)


def replay_once(config: DictConfig) -> None:
    """Replay as configured, write the results into Hydra's output folder, print the summary."""
    from sim.build import build, check_keys, plain
    from sim.outputs import write_run
    from sim.summary import text

    folder = Path(HydraConfig.get().runtime.output_dir)
    system = plain(config.get("system"), "system")
    if system.get("name") != "device":
        check_keys(config)
        print(run_system(folder, system, config))
        print(f"results in {folder}")
        return
    if nothing_compiled():
        print("compiling the engine, once, about 20 s ...", file=sys.stderr)
    replay = build(config)
    start = time.perf_counter()
    table, timeline = replay_into(folder, replay)
    wall_s = time.perf_counter() - start
    answers = ask_what_if(folder, replay) if replay.run.what_if else None
    metrics = write_run(folder, replay, table, plain(config), wall_s)
    print(text(replay, metrics, answers))
    if timeline is not None:
        print(
            f"timeline of {timeline.steps} of {len(table)} steps in {timeline.path}: open it in https://ui.perfetto.dev"
        )
    print(f"results in {folder}")


def run_system(folder: Path, system: dict[str, Any], config: DictConfig) -> str:
    """Run a system of several devices on the configured trace -> what to print."""
    from sim.build import open_trace, plain
    from sim.config import TraceConfig, checked
    from sim.systems import load_system

    trace_config = checked(TraceConfig, plain(config.trace), "trace.")
    trace = open_trace(trace_config)
    if trace_config.requests is not None:
        trace = trace.select_requests(trace_config.requests)
    return str(load_system(system).run(system, trace, folder, bool(config.timeline)))


def replay_into(folder: Path, replay: Replay) -> tuple[StepTable, TimelineFile | None]:
    """Replay everything; steps and, where one is kept, the timeline go to files as they come."""
    from tqdm import tqdm

    from sim.metrics import StepTable
    from sim.outputs import TableFile

    timeline = None
    with ExitStack() as stack:
        table = StepTable(replay, stack.enter_context(TableFile(folder / "steps.parquet")))
        if replay.run.timeline:
            from sim.timeline import NAME, TimelineFile

            timeline = stack.enter_context(TimelineFile(folder / NAME, replay))
        total = replay.schedule.num_steps()
        bar = stack.enter_context(tqdm(total=total, unit=" steps", delay=2, disable=None, leave=False))
        for result in replay.blocks():
            table.add(result)
            if timeline is not None:
                timeline.add(result)
            bar.update(len(result.block))
    return table, timeline


def ask_what_if(folder: Path, replay: Replay) -> dict[str, Any]:
    """Replay the scenarios and write what they came to."""
    from tqdm import tqdm

    from sim.outputs import write_json
    from sim.what_if import NUM_REPLAYS, what_if

    with tqdm(total=NUM_REPLAYS, unit=" what-ifs", delay=2, disable=None, leave=False) as bar:
        answers = what_if(replay, lambda name: bar.update())
    write_json(folder / "what_if.json", answers)
    return answers


def main(argv: list[str]) -> int:
    """Run the command with Hydra overrides; ``-m`` may stand anywhere among them."""
    sweep = [word for word in argv if word in ("-m", "--multirun")]
    words = [word for given in argv if given not in sweep for word in path_overrides(given)]
    sys.argv = ["python -m sim run", *sweep[:1], *words]
    run()
    return 0
