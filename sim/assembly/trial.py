"""Rules of one's own run as plain Python first, under checks, on a short stretch of the very replay.

The engine is the real one: it calls stand-ins that hand each decision to Python, so a rule sees what it will see.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from inspect import getattr_static, getsourcefile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from policies.base import Allocation, Part
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.assembly.rule_class import check_ranges, own_classes, place_of
from sim.assembly.watched import AFTER, NOT_ITS_OWN, Fault, WatchedState, check_bypass, undo, watched
from sim.engine.decision.device import BASES, decides
from sim.engine.decision.layout import DECISIONS
from sim.engine.decision.python_calls import stand_in
from sim.engine.interface import BlockResult
from sim.machine.capacity import CacheConfig
from sim.paths import ROOT
from sim.shipped_rules import own_parts
from traces.embedded import embedded_trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.format.trace import Geometry, Trace

BUDGET_S = 0.15
"""Of a trial before a run; the decision in which it ends is finished."""
PREFILL_SHARE = 3
"""A step takes at most one in so many parts of the budget, so that others are tried, too."""
LONGEST_S = 20
"""No decision takes so long in plain Python; a loop without an end does."""
MENDS = {
    "ZeroDivisionError": ": guard the divisor, as max(divisor, 1)",
    "NotImplementedError": "",
    "FrozenInstanceError": ": knobs stay as they are; what a rule keeps goes into its memory (memory_size cells)",
    "NameError": ": import or define it at the top of the file",
}
_passed: set[tuple[str, str]] = set()


class TooLong(BaseException):
    """Ends a decision that does not end by itself."""


def try_rules(
    trace: Trace, setup: DeviceSetup, geometry: Geometry | None, as_decode: bool, others: Trace | None
) -> None:
    """Try the rules of a policy that are not shipped, once per process for the same rules and trace.

    Raises: UserError with file, line, rule and what would be right.
    """
    own = own_parts(setup.policy)
    if not own:
        return
    key = (f"{setup.policy} {setup.cache} {setup.run} {[id(type(part)) for part in own.values()]}", trace.content_hash)
    if key in _passed:
        return
    stretch = trace.select_requests(min(setup.run.batch_size, trace.num_requests))
    with faults_of(setup):
        Trial.of(stretch, setup, geometry, as_decode, others).run(BUDGET_S)
    for part in own.values():
        check_ranges(part)
    _passed.add(key)


def try_on_embedded(setup: DeviceSetup) -> None:
    """Try the rules that are not shipped where a model will route, on the embedded trace. Raises: as `try_rules`."""
    if own_parts(setup.policy):
        trace = read_trace(embedded_trace_path()).select_requests(setup.run.batch_size)
        try_rules(trace, replace(setup, cache=CacheConfig()), None, False, None)


@contextmanager
def faults_of(setup: DeviceSetup) -> Iterator[None]:
    """Errors of a rule's other methods, such as ``memory_size``, as sentences."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        for part in own_parts(setup.policy).values():
            where = _line_in(error.__traceback__, part)
            if where is not None:
                raise UserError(_sentence(error, where, type(part).__name__)) from error
        raise


@dataclass
class Trial:
    """A replay whose own rules are decided by Python."""

    setup: DeviceSetup
    """With the rules as they are."""
    replay: Replay = field(init=False)
    """With stand-ins for them."""
    kept: list[Any] = field(default_factory=list)
    fault: BaseException | None = None
    skips: bool = False
    """Whether decisions are left out until the next step."""
    skipped: bool = False
    """Whether any were."""
    step_ends: float = math.inf
    decided: int = 0
    steps: int = 0
    started: float | None = None
    """When the decision that is under way began."""
    results: list[BlockResult] = field(default_factory=list)
    states: dict[str, WatchedState] = field(default_factory=dict)
    """By part; empty until the device stands, which may ask ``admit`` before."""

    @classmethod
    def of(
        cls,
        trace: Trace,
        setup: DeviceSetup,
        geometry: Geometry | None,
        as_decode: bool,
        others: Trace | None,
        every: bool = False,
    ) -> Trial:
        """The trial of a policy's own rules, or of ``every`` one."""
        trial, own = cls(setup), set(BASES) if every else own_parts(setup.policy).keys()
        parts: dict[str, Any] = {}
        for name, part in zip(BASES, setup.policy.parts(), strict=True):
            if name not in own:
                continue
            mine = [decision for decision, (of, _) in DECISIONS.items() if of == name]
            taken = {decision: trial._taker(name, part, decision) for decision in mine
                     if decides(part, BASES[name], decision)}  # fmt: skip
            parts[name], kept = stand_in(part, taken)
            trial.kept += kept
        run = replace(setup.run, timeline=False, what_if=False)
        tried = replace(setup, policy=replace(setup.policy, **parts), run=run)
        trial.replay = assemble(trace, tried, geometry, as_decode, others)
        trial.states = {name: WatchedState(trial.replay.device, part) for name, part in
                         zip(BASES, setup.policy.parts(), strict=True)}  # fmt: skip
        return trial

    def run(self, budget_s: float, most_steps: int = 10**9) -> None:
        """Replay until the budget is spent. Raises: UserError for a fault of a rule."""
        ends = time.perf_counter() + budget_s
        with self._guard():
            for block in self.replay.schedule.blocks(1):
                self.skips, self.step_ends = False, time.perf_counter() + budget_s / PREFILL_SHARE
                try:
                    data = self.replay.reader.read(block)
                    self.results.append(self.replay.engine.replay(self.replay.with_room(block), data))
                except ValueError:
                    if self.fault is None:
                        raise
                if self.fault is not None:
                    raise self.fault
                self.steps += 1
                if time.perf_counter() > ends or self.steps >= most_steps:
                    return

    def _taker(self, name: str, part: Part, decision: str) -> Callable[[int, int, int], int]:
        """What takes a decision: never raises, but keeps the fault."""
        function = getattr(type(part), decision)
        static = isinstance(getattr_static(type(part), decision), staticmethod)
        values = [getattr(part, knob.name) for knob in fields(part)]
        knobs = np.array([math.nan if value is None else value for value in values if not isinstance(value, str)])
        first_arguments = (watched(knobs.astype(np.float64), "knobs", False),) if static else ()

        def take(first: int, second: int, third: int) -> int:
            if self.fault is not None or self.skips or not self.states:
                return 0
            state, device = self.states[name], self.replay.device
            memory = watched(device.memories[name], "memory", True)
            given: tuple[Any, ...] = (state, *first_arguments, memory) if static else (part, state, memory)
            more = {"refresh": (first,), "admit": (first, second, bool(third)), "bypass": (first, second, third)}
            try:
                self.started = time.perf_counter()
                with np.errstate(all="ignore"):  # compiled code does not warn either
                    found = function(*given, *more.get(decision, ()))
                self.started = None
                if decision == "bypass":
                    check_bypass(found)
                    return int(found)
                AFTER[decision](device, part)
            except KeyboardInterrupt as error:
                self.fault = error
            except (Exception, SystemExit, GeneratorExit, TooLong) as error:
                where = _line_in(error.__traceback__, part) or place_of(function)
                self.fault = UserError(_sentence(error, where, f"{type(part).__name__}.{decision}", part))
            finally:
                self.started = None
            if self.fault is not None:
                undo(device)
                return 0
            self.decided += 1
            self.skips = time.perf_counter() > self.step_ends
            self.skipped = self.skipped or self.skips
            return 0

        return take

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """While it lasts, a decision that does not end is ended."""
        done, thread = threading.Event(), threading.get_ident()

        def look() -> None:
            while not done.wait(1.0):
                if self.started is not None and time.perf_counter() - self.started > LONGEST_S:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TooLong))
                    return

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _line_in(trace: TracebackType | None, part: Part | Allocation) -> str | None:
    """FILE:LINE where an error arose in a rule's own file, else in the last file that is not of this tool."""
    frames = []
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = {getsourcefile(cls) for cls in own_classes(type(part))}
    mine = [frame for frame in frames if frame[0] in own]
    ours = (ROOT / "sim", ROOT / "policies", ROOT / "traces")
    theirs = [frame for frame in frames if "-packages" not in frame[0] and "<" not in frame[0]]
    found = mine or [frame for frame in theirs if not any(Path(frame[0]).is_relative_to(place) for place in ours)]
    return f"{found[-1][0]}:{found[-1][1]}" if found else None


def _sentence(error: BaseException, where: str, what: str, part: Any = None) -> str:
    """What a rule did wrong."""
    if isinstance(error, Fault):
        return f"{where}: {what} {error}"
    if isinstance(error, TooLong):
        return f"{where}: {what} has not ended after {LONGEST_S} s: does its loop end?"
    knobs = [] if part is None else [knob.name for knob in fields(part)]
    if isinstance(error, AttributeError) and error.name and error.obj is part:
        near = get_close_matches(error.name, knobs, 1)
        hint = f"did you mean self.{near[0]}?" if near else f"annotate it in the class, as {error.name}: float = 1.0"
        return f"{where}: {what} reads self.{error.name}, which is no knob: {hint}"
    if isinstance(error, ValueError) and "read-only" in str(error):
        return f"{where}: {what} changes an array as a whole that is not its own: {NOT_ITS_OWN}"
    kind = type(error).__name__
    said = " ".join(str(error).split())
    return f"{where}: {what} ends in {kind}{': ' + said if said else ''}{MENDS.get(kind, '')}"
