"""The runs of a sweep, each in a folder named by its key: finished ones are kept, failed ones recorded.

A run is written beside its folder and then renamed, under a lock that the system releases if the process dies. So a
killed sweep continues with the same command, and two sweeps may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sim.assembly.build import open_trace, wish_of
from sim.cards.synthesis import synthetic_hash
from sim.config import TraceConfig, to_plain_dict, validate
from sim.errors import one_line, system_error
from sim.formatting import is_known, milliseconds, of_layers, percent
from sim.machine.geometry import model_layers
from sim.metrics.registry import decode_time
from sim.results.json_files import read_json, write_json
from sim.results.summary import exchanged
from sim.run.execute import DeviceRun, SystemRun, execute
from sim.sweep.grid import OneRun, expand
from sim.sweep.key import code_version, run_key, run_name
from traces.errors import UserError
from traces.text import short_name
from traces.whole_file import make_folder, unfinished_name

STEM = 40
"""Characters at the end of a run's name, its key among them, that the name of its unfinished folder repeats."""
FAILED, LOCKS = "failed", ".locks"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run of a sweep belongs."""

    folder: Path
    name: str
    key: str

    @property
    def run(self) -> Path:
        return self.folder / self.name

    @property
    def finished(self) -> bool:
        """Whether the run is complete; folders appear whole."""
        return (self.run / "metrics.json").is_file()

    def lock(self) -> FileLock:
        """Held while the run is computed; the operating system gives it back when its holder dies.

        Between machines this needs a shared file system with locks; without them a run may be computed twice, but
        never half.
        """
        path = self.folder / LOCKS / f"{self.name}.lock"
        make_folder(path.parent)
        return FileLock(path)


def place_of(config: DictConfig, folder: Path) -> Place:
    """The folder of a run. Raises: UserError where the trace cannot be read."""
    values = to_plain_dict(config)
    trace = values.get("trace")
    trace_hash = ""
    if isinstance(trace, dict) and any(trace.get(name) for name in ("path", "embedded", "card")):
        asked = validate(TraceConfig, trace, "trace.").recorded()
        trace_hash = synthetic_hash(wish_of(asked)) if asked.shape == "card" else open_trace(asked).content_hash
    key = run_key(values, trace_hash)
    return Place(folder, run_name(values, key), key)


def run_grid(config: DictConfig, words: list[str], folder: Path) -> list[Path | None]:
    """`run_all` of a job's grid; `words` are the overrides of the job. A wrong grid is a failure of the whole job."""
    try:
        runs = expand(config, words)
    except (UserError, OmegaConfBaseException) as error:
        _record_failure(OneRun(config, tuple(words)), folder, error)
        return [None]
    return run_all(runs, folder)


def run_all(runs: Iterable[OneRun], folder: Path) -> list[Path | None]:
    """Run what is not finished -> the folder of every run, None for those that failed.

    What another process is computing is left to it and looked at again at the end.
    """
    found: list[Path | None] = []
    waiting: list[tuple[int, OneRun]] = []
    for i, one in enumerate(runs):
        found.append(None)
        try:
            found[i] = run_one(one, folder, wait=False)
        except Timeout:
            waiting.append((i, one))
    for i, one in waiting:
        found[i] = run_one(one, folder, wait=True)
    return found


def run_one(one: OneRun, folder: Path, wait: bool) -> Path | None:
    """The folder of the finished run, None where it failed. Raises: Timeout where it is busy and `wait` is false."""
    try:
        place = place_of(one.config, folder)
        if place.finished:
            return place.run
        with place.lock().acquire(timeout=-1 if wait else 0):
            done = None if place.finished else _compute(one, place)
    except Timeout:
        raise
    except Exception as error:
        _record_failure(one, folder, error)
        return None
    if done is not None:
        print(f"{place.name}  {_summary(one, done)}")
    return place.run


def _compute(one: OneRun, place: Place) -> DeviceRun | SystemRun:
    """Replay beside the run's folder, then rename; what was written is removed where that fails."""
    if place.run.is_symlink() or (place.run.exists() and not place.run.is_dir()):
        raise UserError(f"{place.run} is no folder: a run's folder must be one, or a name that nothing has")
    stem = place.name[-STEM:]
    for killed in place.folder.glob(f".{stem}.*.part"):
        shutil.rmtree(killed, ignore_errors=True)
    beside = place.folder / unfinished_name(stem)
    beside.mkdir()
    try:
        done = execute(one.config, beside)
        provenance = beside / "provenance.json"
        known = read_json(provenance) | {"overrides": list(one.words), "key": place.key, "code_version": code_version()}
        write_json(provenance, known)
        shutil.rmtree(place.run, ignore_errors=True)  # only what is not finished gets here
        beside.rename(place.run)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    failure_of(one, place.folder).unlink(missing_ok=True)
    return done


def _summary(one: OneRun, done: DeviceRun | SystemRun) -> str:
    """One line on a finished run: what was run, what came out."""
    if isinstance(done, SystemRun):
        return "\n".join(filter(None, [", ".join(one.words), done.in_sweep]))
    replay, metrics = done.replay, done.metrics
    settings = [word for word in one.words if not word.startswith(("policy", "engine=", "sweep.", "what_if=", "hydra"))]
    name = f"policy {', '.join([short_name(replay.policy.name), *exchanged(one.words), *settings])}"
    found = [f"decode hit rate {percent(metrics['decode.hit_rate'])}"]
    time = decode_time((replay.run.batch_size,))
    if is_known(value := metrics[time]):
        title = "TPOT" if time.startswith("tpot") else "decode step"
        rate = f"{replay.run.batch_size / value:.4g} tokens/s" if value > 0 else ""
        layers = of_layers(replay.trace.num_layers, model_layers(replay.geometry), replay.trace.recorded_layers)
        found.append(f"{title} {milliseconds(value)} {layers}, {rate}")
    return f"{name}: {', '.join(found)}"


def failure_of(one: OneRun, folder: Path) -> Path:
    """The record of a run's failure, named by its configuration alone: mended code or a mended trace takes it away."""
    values: Any = OmegaConf.to_container(one.config, resolve=False)
    values = {name: value for name, value in values.items() if name != "sweep"} | {"words": list(one.words)}
    name = run_name(values, hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest())
    return folder / FAILED / f"{name}.json"


def _record_failure(one: OneRun, folder: Path, error: Exception) -> None:
    """Say and write which run failed and why."""
    bad_input = isinstance(error, UserError | OmegaConfBaseException)
    sentence = one_line(error) if bad_input else f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, OSError):
        sentence = system_error(error)
    record = {
        "overrides": list(one.words),
        "error": sentence,
        "bad_input": bad_input,
        "traceback": None if bad_input else traceback.format_exc(),
    }
    path = failure_of(one, folder)
    print(f"error: {' '.join(one.words) or 'the run'}: {sentence}", file=sys.stderr)
    write_json(path, record)


def objectives(config: DictConfig, folders: list[Path | None]) -> float | list[float] | None:
    """What `sweep.objectives` names, of the job's only run: a number, or a list of several; infinite where it failed.

    Raises: UserError where a grid makes several runs, or the run has no such metric.
    """
    names = config.sweep.get("objectives")
    if not names:
        return None
    if len(folders) != 1:
        raise UserError(f"sweep.objectives={list(names)}: a job with a sweep.grid has several runs, not one result")
    if folders[0] is None:
        return [float("inf")] * len(names) if len(names) > 1 else float("inf")
    metrics = json.loads((folders[0] / "metrics.json").read_text(encoding="utf-8"))
    for name in names:
        if not isinstance(metrics.get(name), int | float):
            raise UserError(f"sweep.objectives: {name}={metrics.get(name)} of {folders[0].name} is no number")
    values = [float(metrics[name]) for name in names]
    return values if len(values) > 1 else values[0]
