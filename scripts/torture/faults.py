"""Faults: killed at random moments, no room on the disk, interrupted, a trace cut while it is replayed.

A process that has imported and compiled everything forks a child for each trial, so that the moment of the fault falls
into the work and not into the imports. What must hold after every fault: whatever has its final name is whole and equal
to what an undisturbed run writes; the next start works and gives the same bytes.
"""

from __future__ import annotations

import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

from scripts.torture.inputs import small_trace
from scripts.torture.jobs import IN_PROCESS, JOBS, Job, prepare, run_here
from scripts.torture.tally import Tally


def start(
    argv: list[str], log: Path, before: Callable[[], None] | None = None, task: Callable[[], int] | None = None
) -> int:
    """Fork a child that runs a command, or a task, with its output in a file -> process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        # Not those of the parent, which may lead to a file where these lead to a pipe.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        if before is not None:
            before()
        status = run_here(argv) if task is None else task()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(child: int) -> int:
    """Exit status of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(out: Path, job: Job) -> dict[str, bytes]:
    """The files that a job leaves, by name."""
    return {str(path.relative_to(out)): path.read_bytes() for name in job.results for path in sorted(out.glob(name))}


class Arena:
    """Inputs, the undisturbed results of the jobs, and how long each takes."""

    def __init__(self, work: Path, names: tuple[str, ...]) -> None:
        self.work = work
        os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
        with redirect_stdout(io.StringIO()):
            prepare(work, names)
        self.whole: dict[str, dict[str, bytes]] = {}
        self.takes_s: dict[str, float] = {}
        for name in names:
            self._warm(JOBS[name])

    def _warm(self, job: Job) -> None:
        out, log = self.work / f"whole_{job.name}", self.work / "log"
        out.mkdir()
        if job.name in IN_PROCESS:  # imports and compiles here
            keep = os.dup(1)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            run_here(job.argv(self.work, self.work / f"warm_{job.name}"))
            os.dup2(keep, 1)
        else:
            from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeForCausalLM  # noqa: F401

            import traces.recording.recorder  # noqa: F401
        begun = time.perf_counter()
        status = finish(start(job.argv(self.work, out), log))
        self.takes_s[job.name] = time.perf_counter() - begun
        if status:
            raise RuntimeError(f"{job.name} does not run undisturbed: {log.read_text()[-2000:]}")
        self.whole[job.name] = contents(out, job)


def check(arena: Arena, job: Job, out: Path, tally: Tally) -> None:
    """Whatever has its final name must be whole; a run that shows metrics must show everything."""
    left, whole = contents(out, job), arena.whole[job.name]
    for name, content in left.items():
        if content != whole[name]:
            tally.defects[f"{job.name}: {Path(name).name} is not whole"] += 1
    for name in left:
        beside = {other for other in whole if Path(other).parent == Path(name).parent}
        if name.endswith("metrics.json") and not beside <= set(left):
            tally.defects[f"{job.name}: metrics.json is there and another file is not"] += 1


def again(arena: Arena, job: Job, out: Path, tally: Tally) -> None:
    """The next start into the same folder works and writes what an undisturbed one does."""
    status = finish(start(job.argv(arena.work, out), arena.work / "log"))
    if status or contents(out, job) != arena.whole[job.name]:
        last_line = (arena.work / "log").read_text().strip().splitlines()[-1:]
        tally.defects[f"{job.name}: the next start ends with {status}: {last_line}"] += 1


def kills(arena: Arena, name: str, count: int, seed: int) -> Tally:
    """kill -9 at random moments; every fifth time the command is started again in the folder that it left."""
    job, rng, tally = JOBS[name], random.Random(f"{seed} kill {name}"), Tally(f"kill -9 of {name}")
    for trial in range(count):
        out = fresh(arena.work / "killed")
        child = start(job.argv(arena.work, out), arena.work / "log")
        time.sleep(rng.uniform(0, 1.1 * arena.takes_s[name]))
        os.kill(child, signal.SIGKILL)
        status = finish(child)
        tally.trials += 1
        left = len(contents(out, job))
        state = "finished before" if status == 0 else "nothing final" if not left else "some or all files final"
        tally.outcomes[state] += 1
        check(arena, job, out, tally)
        if trial % 5 == 4:
            again(arena, job, out, tally)
            tally.outcomes["started again"] += 1
    return tally


def no_room(arena: Arena, name: str, count: int, seed: int) -> Tally:
    """The disk takes only so many bytes of a file: one sentence, exit code 2, no half of a file under its name."""
    job, rng, tally = JOBS[name], random.Random(f"{seed} room {name}"), Tally(f"file size limit in {name}")
    largest = max(len(content) for content in arena.whole[name].values())
    for _ in range(count):
        out, most = fresh(arena.work / "full"), rng.randrange(max(2, largest + largest // 8))

        def limit(most: int = most) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        read, write = os.pipe()
        child = start_piped(job.argv(arena.work, out), write, limit)
        os.close(write)
        output = drain(read)
        judge(finish(child), output, job, tally)
        check(arena, job, out, tally)
    return tally


def start_piped(argv: list[str], write: int, before: Callable[[], None]) -> int:
    """As `start`, with the output into a pipe, which no limit of file sizes touches."""
    return start(argv, Path(f"/proc/self/fd/{write}"), before)


def drain(read: int) -> str:
    """Everything that comes out of a pipe."""
    pieces = []
    while piece := os.read(read, 65536):
        pieces.append(piece)
    os.close(read)
    return b"".join(pieces).decode(errors="replace")


def judge(status: int, output: str, job: Job, tally: Tally, allowed: tuple[int, ...] = (0, 2)) -> None:
    """Exit status and words of a command that was disturbed."""
    tally.trials += 1
    tally.outcomes[f"exit {status}"] += 1
    if "Traceback" in output:
        tally.defects[f"{job.name}: a traceback: {output.strip().splitlines()[-1][:120]}"] += 1
    elif status not in allowed:
        tally.defects[f"{job.name}: exit {status}: {output.strip().splitlines()[-1:]}"] += 1
    elif status == 2 and "error: " not in output:
        tally.defects[f"{job.name}: exit 2 without a sentence"] += 1


def interrupts(arena: Arena, name: str, count: int, seed: int) -> Tally:
    """Ctrl-C once or twice at random moments: exit code 130, no traceback, nothing half under its name."""
    job, rng, tally = JOBS[name], random.Random(f"{seed} interrupt {name}"), Tally(f"Ctrl-C in {name}")
    for _ in range(count):
        out, log = fresh(arena.work / "stopped"), arena.work / "log"
        child = start(job.argv(arena.work, out), log, lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # type: ignore[arg-type]
        time.sleep(rng.uniform(0.05, arena.takes_s[name]))
        for _ in range(rng.choice((1, 2))):
            try:
                os.kill(child, signal.SIGINT)
            except ProcessLookupError:
                break
            time.sleep(rng.uniform(0, 0.02))
        judge(finish(child), log.read_text(errors="replace"), job, tally, (0, 130))
        check(arena, job, out, tally)
    return tally


def changed_traces(arena: Arena, count: int, seed: int) -> Tally:
    """The trace is cut, overwritten or replaced while it is replayed: a sentence or the right numbers, no crash."""
    from traces.format.files import write_trace

    rng, tally = random.Random(f"{seed} change"), Tally("trace changed during the replay")
    job, path = JOBS["run"], arena.work / "big.safetensors"
    write_trace(path, small_trace(3, requests=30_000))
    good = path.read_bytes()
    argv = [*job.argv(arena.work, arena.work / "changed"), f"trace.path={path}", "timeline=false"]
    begun = time.perf_counter()
    finish(start(argv, arena.work / "log"))
    takes_s = time.perf_counter() - begun
    right = (arena.work / "changed" / "metrics.json").read_bytes()
    for _ in range(count):
        path.write_bytes(good)
        out = fresh(arena.work / "changed")
        child = start(argv, arena.work / "log")
        time.sleep(rng.uniform(0.2, 1.0) * takes_s)
        change = rng.choice(("cut", "overwritten", "replaced"))
        spoil_in_place(path, change, good, rng)
        status, output = finish(child), (arena.work / "log").read_text(errors="replace")
        judge(status, output, job, tally)
        tally.outcomes[f"{change}: exit {status}"] += 1
        if status == 0 and (out / "metrics.json").read_bytes() != right:
            tally.defects[f"{change}: other numbers without a word"] += 1
    path.unlink()
    return tally


def spoil_in_place(path: Path, change: str, good: bytes, rng: random.Random) -> None:
    """Change a file that somebody has mapped."""
    if change == "cut":
        os.truncate(path, rng.randrange(len(good)))
    elif change == "overwritten":
        with path.open("r+b") as file:
            file.seek(len(good) // 4)
            file.write(b"\xff" * (len(good) // 2))
    else:
        other = path.with_suffix(".new")
        other.write_bytes(b"\xff" * len(good))
        other.replace(path)


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def faults(
    kill: int, room: int, interrupt: int, change: int, seed: int, names: tuple[str, ...] = tuple(JOBS)
) -> Iterator[Tally]:
    """All kinds of faults, so many trials of each for every job."""
    with tempfile.TemporaryDirectory() as work:
        arena = Arena(Path(work), names)
        for name in names:
            yield kills(arena, name, kill, seed)
            yield no_room(arena, name, room, seed)
            yield interrupts(arena, name, interrupt, seed)
        if change:
            yield changed_traces(arena, change, seed)
