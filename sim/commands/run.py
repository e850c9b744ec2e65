"""Replay a trace under a policy on a modelled machine and report hit rate, bytes and latency.

  python -m sim run policy=importance                      the embedded trace, SMoE's policy
  python -m sim run policy=lru cache.fraction=0.5          half of the experts fit
  python -m sim run policy=importance policy/eviction=lru  one part exchanged
  python -m sim run trace.path=my.safetensors model=qwen3_30b_a3b hardware=rtx4090
  python -m sim run hardware=mine.yaml runtime=mine_runtime.yaml      what python -m sim calibrate has measured
  python -m sim run -m policy=lru,importance,llama_cpp runtime=own    each policy on the software it was published with
  python -m sim run -m policy=lru,importance,belady cache.fraction=0.25,0.5    a sweep
  python -m sim run -m +experiment=capacity                a sweep of conf/experiment; the same command continues it
  python -m sim run -m +experiment=four_systems            SMoE, MoE-Beyond, OD-MoE, Expert Streaming on one machine
  python -m sim plot FOLDER                                figures of a run or sweep

  python -m sim run policy=lru layers=cycle                the recorded layers repeated to the depth of the model, for
                                                           the time of a whole one (ESTIMATED)
  python -m sim run timeline=true                          what GPU, link and CPU did when, for https://ui.perfetto.dev
  python -m sim run what_if=true                           what a faster link, a perfect prefetch, ... would gain

Groups: policy, policy/eviction, policy/prediction, policy/prefetch, policy/substitution, policy/assignment, hardware,
runtime (own: the one that each policy names), model, trace, engine. Capacity is one of cache.fraction,
cache.slots_per_layer, cache.bytes (default: fraction 0.25); cache.bytes=auto: what weights, K and V at the present
context and buffers leave of the GPU's memory. session.*: chats, each turn with a TTFT of its own, think time, what is
kept between turns. prefill.order: prompts token by token, by chunks, by expert, past the cache, or layer by layer.
speculate.tokens=N: decode steps verify N drafts; speculate.acceptance, rejected, draft, draft_bytes, draft_layers.
out=FOLDER says where results go. quiet=true prints nothing, format=json the metrics and the folder as JSON.
Results: metrics.json, steps.parquet, requests.parquet, blocks.parquet, provenance.json (timeline.json.gz, what_if.json
where asked for) in the folder that is printed last; of a sweep in outputs/sweep/NAME, a folder per run, and all runs in
results.parquet. sweep.name=NAME: a killed sweep continues with the same command, finished runs are kept.
hydra/launcher=joblib hydra.launcher.n_jobs=2 runs two jobs at a time (extra `sweep`; also submitit_slurm, and ray from
the extra `ray`); +sweep.grid.cache.fraction=[0.1,0.2] replays every value (combination) inside one job.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sim.errors import one_line
from sim.group_files import quoted
from sim.hydra_command import SWEEP_FLAGS, is_sweep, output_folder, run_hydra_command
from sim.ranges import OneOf
from sim.terminal import next_commands
from traces.errors import UserError
from traces.numba_cache import announce_compilation

DEAD_WORKER = ("TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError", "WorkerCrashedError")
"""What joblib, submitit and Ray raise when a worker was killed, for example for want of memory."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(argv: list[str]) -> int:
    """Run the command with Hydra overrides; ``-m`` may stand anywhere among them.

    Of a sweep: 0 when all runs finished, 2 when those that failed were bad input, else 1.
    """
    from sim.sweep.end import watch_sweep

    if any(word in SWEEP_FLAGS for word in argv):
        for name in THREADS:
            os.environ.setdefault(name, "1")  # jobs are what runs side by side
        logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)  # a dead worker is told of once, below
    words, printed = printing(placed(argv))
    with watch_sweep() as outcome:
        try:
            run_hydra_command("run", words, partial(run_job, printed=printed, typed=argv), "config")
        except Exception as error:
            if type(error).__name__ not in DEAD_WORKER:
                raise
            print(f"error: the sweep stopped: {one_line(error)}; the same command continues it", file=sys.stderr)
            return 1
    return outcome.exit_status


PRINTED = {"quiet": ("true", "false"), "format": ("table", "json")}
"""What decides how a single run is shown, and no result: word -> its values."""


def placed(argv: Sequence[str]) -> list[str]:
    """The overrides with ``out=FOLDER`` in Hydra's words, for a sweep those of a sweep."""
    place = "hydra.sweep.dir" if any(word in SWEEP_FLAGS for word in argv) else "hydra.run.dir"
    return [
        f"{place}={quoted(word.removeprefix('out='))}" if word.startswith("out=") and word != "out=" else word
        for word in argv
    ]


def printing(argv: Sequence[str]) -> tuple[list[str], str]:
    """(the other overrides, how a run is shown: table, json or nothing). Raises: UserError for another value."""
    chosen = {"quiet": "false", "format": "table"}
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        if not equals or name not in PRINTED:
            words.append(word)
        elif value not in PRINTED[name]:
            raise UserError(f"{word}: must be {OneOf(*PRINTED[name])}")
        else:
            chosen[name] = value
    return words, "nothing" if chosen["quiet"] == "true" else chosen["format"]


def run_job(config: DictConfig, printed: str = "table", typed: Sequence[str] = ()) -> float | list[float] | None:
    """One job: a replay, or in a sweep the runs of its grid -> the objectives that the configuration names.

    ``typed``: the words of the command.
    """
    from sim.config import SweepConfig, to_plain_dict, validate

    if is_sweep() or validate(SweepConfig, to_plain_dict(config.get("sweep"), "sweep"), "sweep.").grid:
        return run_grid_job(config)
    run_once(config, printed, typed)
    return None


def run_once(config: DictConfig, printed: str, typed: Sequence[str]) -> None:
    """Run the configuration into Hydra's output folder and show it: as a table, as JSON, or not."""
    folder = output_folder()
    announce_compilation()
    from sim.run.execute import DeviceRun, execute

    done = execute(config, folder)
    if printed == "nothing":
        return
    if printed == "json":
        from sim.results.json_files import read_json

        label, metrics = read_json(folder / "provenance.json").get("label"), read_json(folder / "metrics.json")
        print(json.dumps({"label": label, "folder": str(folder), "metrics": metrics}, indent=2))
        return
    if isinstance(done, DeviceRun):
        from sim.results.summary import text

        print(text(done.replay, done.metrics, done.what_if, HydraConfig.get().overrides.task, done.requests))
        if done.timeline is not None:
            print(f"{done.timeline}: open it in https://ui.perfetto.dev")
    else:
        print(done.text)
    print(f"results in {folder}")
    if isinstance(done, DeviceRun):
        print(next_commands(*follow_up(typed, folder, done.what_if is None and done.replay.timed)))


def follow_up(typed: Sequence[str], folder: Path, may_ask: bool) -> list[list[object]]:
    """What to do with a run: look at it, and (``may_ask``) ask what would make it faster."""
    same: list[object] = [
        word for word in typed if not word.startswith(("out=", "format=", "hydra.run.dir=", "what_if="))
    ]
    look, ask = ["report", folder], ["run", *same, "what_if=true"]
    return [look, ask] if may_ask else [look]


def run_grid_job(config: DictConfig) -> float | list[float] | None:
    """The runs of one job of a sweep, those that are not finished yet."""
    from sim.sweep.end import finish, now_ns
    from sim.sweep.jobs import objectives, run_grid
    from sim.sweep.key import words_of

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.sweep.dir if is_sweep() else hydra_config.run.dir)
    started_ns = now_ns(folder)
    folders = run_grid(config, words_of(hydra_config.overrides.task), folder)
    if not is_sweep():  # of a sweep Hydra tells us the end
        finish(folder, started_ns)
    return objectives(config, folders)
