"""Replay a trace under a policy on a modelled machine and report hit rate, bytes and latency.

  python -m sim run policy=importance                      the embedded trace, SMoE's policy
  python -m sim run policy=lru cache.fraction=0.5          half of the experts fit
  python -m sim run policy=importance policy/eviction=lru  one part exchanged
  python -m sim run trace.path=my.safetensors model=qwen3_30b_a3b hardware=rtx4090
  python -m sim run hardware=mine.yaml                     a machine that python -m sim calibrate has measured
  python -m sim run -m policy=lru,importance,belady cache.fraction=0.25,0.5    a sweep
  python -m sim run -m +experiment=capacity                a sweep of conf/experiment; the same command continues it
  python -m sim plot FOLDER                                figures of a run or sweep

  python -m sim run timeline=true                          what GPU, link and CPU did when, for https://ui.perfetto.dev
  python -m sim run what_if=true                           what a faster link, a perfect prefetch, ... would gain

Groups: policy, policy/eviction, policy/prediction, policy/prefetch, policy/substitution, policy/assignment, hardware,
model, trace, engine. Capacity is one of cache.fraction, cache.slots_per_layer, cache.bytes (default: fraction 0.25).
Results: metrics.json, steps.parquet, requests.parquet, blocks.parquet, provenance.json (timeline.json.gz, what_if.json
where asked for) in the folder that is printed last; of a sweep in outputs/sweep/NAME, a folder per run, and all runs in
results.parquet. sweep.name=NAME: a killed sweep continues with the same command, finished runs are kept.
hydra/launcher=joblib hydra.launcher.n_jobs=2 runs two jobs at a time (extra `sweep`; also submitit_slurm, and ray from
the extra `ray`); +sweep.grid.cache.fraction=[0.1,0.2] replays every value (combination) inside one job.
"""

from __future__ import annotations

import os
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
from sim.machine.hardware import path_overrides
from sim.paths import CONF
from traces.errors import UserError
from traces.numba_cache import nothing_compiled

if TYPE_CHECKING:
    from sim.assembly.replay import Replay
    from sim.metrics.block_sums import BlockSums
    from sim.metrics.step_table import Metrics, StepTable
    from sim.timeline.event_file import TimelineFile

DEAD_WORKER = ("TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError", "WorkerCrashedError")
"""What joblib, submitit and Ray raise when a worker was killed, for example for want of memory."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(config: DictConfig) -> float | list[float] | None:
    """One job: a replay, or in a sweep the runs of its grid -> the objectives that the configuration names."""
    try:
        if HydraConfig.get().mode != RunMode.RUN or config.get("sweep", {}).get("grid"):
            return run_job(config)
        replay_once(config)
    except (UserError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode != RunMode.RUN:
            raise  # Hydra says which job of the sweep it was
        remove_unused(Path(HydraConfig.get().runtime.output_dir))
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    return None


def run_job(config: DictConfig) -> float | list[float] | None:
    """The runs of one job of a sweep, those that are not finished yet."""
    from sim.sweep.end import finish, now_ns
    from sim.sweep.jobs import objectives, run_grid
    from sim.sweep.key import words_of

    hydra_config = HydraConfig.get()
    alone = hydra_config.mode == RunMode.RUN
    folder = Path(hydra_config.run.dir if alone else hydra_config.sweep.dir)
    started_ns = now_ns(folder)
    folders = run_grid(config, words_of(hydra_config.overrides.task), folder, replay_quietly)
    if alone:  # of a sweep Hydra tells us the end
        finish(folder, started_ns)
    return objectives(config, folders)


def remove_unused(folder: Path) -> None:
    """Take away the output folder of a run that was refused before it wrote anything."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".hydra"}:
        shutil.rmtree(folder)


def replay_once(config: DictConfig) -> None:
    """Replay as configured, write the results into Hydra's output folder, print the summary."""
    from sim.assembly.build import plain
    from sim.results.summary import text

    folder = Path(HydraConfig.get().runtime.output_dir)
    if plain(config.get("system"), "system").get("name") != "device":
        print(run_system(folder, config))
    else:
        if nothing_compiled():
            print("compiling the engine, once, about 20 s ...", file=sys.stderr)
        replay, metrics, answers, said = replay_device(config, folder)
        print(text(replay, metrics, answers))
        print(said, end="")
    print(f"results in {folder}")


def replay_quietly(config: DictConfig, folder: Path) -> str:
    """Replay one run of a sweep into a folder -> one line."""
    from sim.assembly.build import plain

    if plain(config.get("system"), "system").get("name") != "device":
        run_system(folder, config)
        return ""
    _, metrics, _, _ = replay_device(config, folder)
    words = (("hit rate", "hit_rate", "{:.3f}", 1.0), ("TPOT", "tpot_s.mean", "{:.3f} ms", 1e3))
    values = [(title, form, metrics[name], scale) for title, name, form, scale in words]
    return ", ".join(f"{title} {form.format(v * scale)}" for title, form, v, scale in values if isinstance(v, float))


def replay_device(config: DictConfig, folder: Path) -> tuple[Replay, Metrics, dict[str, Any] | None, str]:
    """Replay on one GPU and write everything -> (replay, metrics, what-if answers, what to say of the timeline)."""
    from sim.assembly.build import build, plain
    from sim.results.outputs import write_run

    replay = build(config)
    start = time.perf_counter()
    table, blocks, timeline = replay_into(folder, replay, bool(config.sweep.steps))
    wall_s = time.perf_counter() - start
    answers = ask_what_if(folder, replay) if replay.run.what_if else None
    metrics = write_run(folder, replay, table, plain(config), wall_s, blocks)
    said = ""
    if timeline is not None:
        said = f"timeline of {timeline.steps} of {len(table)} steps in {timeline.path}: open it in https://ui.perfetto.dev\n"
    return replay, metrics, answers, said


def run_system(folder: Path, config: DictConfig) -> str:
    """Run a system of several devices on the configured trace -> what to print."""
    from sim.assembly.build import open_trace, plain
    from sim.config import TraceConfig, checked
    from sim.systems import load_system

    system = plain(config.get("system"), "system")
    trace_config = checked(TraceConfig, plain(config.trace), "trace.")
    trace = open_trace(trace_config)
    if trace_config.requests is not None:
        trace = trace.select_requests(trace_config.requests)
    return str(load_system(system).run(system, trace, folder, bool(config.timeline)))


def replay_into(folder: Path, replay: Replay, steps: bool) -> tuple[StepTable, BlockSums, TimelineFile | None]:
    """Replay everything; steps (where wanted) and the timeline (where one is kept) go to files as they come."""
    from tqdm import tqdm

    from sim.metrics.block_sums import BlockSums
    from sim.metrics.step_table import StepTable
    from sim.results.table_file import Sinks, TableFile

    timeline, blocks = None, BlockSums(replay.trace.num_layers, replay.pools.slots())
    with ExitStack() as stack:
        files = [stack.enter_context(TableFile(folder / "steps.parquet"))] if steps else []
        table = StepTable(replay, Sinks(blocks, *files))
        if replay.run.timeline:
            from sim.timeline.event_file import NAME, TimelineFile

            timeline = stack.enter_context(TimelineFile(folder / NAME, replay))
        total = replay.schedule.num_steps()
        bar = stack.enter_context(tqdm(total=total, unit=" steps", delay=2, disable=None, leave=False))
        for result in replay.blocks():
            table.add(result)
            if timeline is not None:
                timeline.add(result)
            bar.update(len(result.block))
    return table, blocks, timeline


def ask_what_if(folder: Path, replay: Replay) -> dict[str, Any]:
    """Replay the scenarios and write what they came to."""
    from tqdm import tqdm

    from sim.results.json_files import write_json
    from sim.run.what_if import NUM_REPLAYS, what_if

    with tqdm(total=NUM_REPLAYS, unit=" what-ifs", delay=2, disable=None, leave=False) as bar:
        answers = what_if(replay, lambda name: bar.update())
    write_json(folder / "what_if.json", answers)
    return answers


def main(argv: list[str]) -> int:
    """Run the command with Hydra overrides; ``-m`` may stand anywhere among them.

    Of a sweep: 0 when all runs finished, 2 when those that failed were bad input, else 1.
    """
    sweep = [word for word in argv if word in ("-m", "--multirun")]
    if sweep:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")  # jobs are what runs side by side
    words = [word for given in argv if given not in sweep for word in path_overrides(given)]
    sys.argv = ["python -m sim run", *sweep[:1], *words]
    try:
        run()
    except Exception as error:
        if type(error).__name__ not in DEAD_WORKER:
            raise
        print(f"error: the sweep stopped: {one_line(error)}; the same command continues it", file=sys.stderr)
        return 1
    from sim.sweep.end import exit_status

    return exit_status()
