"""Every command's configuration, walked: integers at the edges in each knob, values of the wrong shape everywhere.

What is tried follows from the composed configurations: a new command, group, rule or knob joins by itself. Each case
runs the whole command in a child on small inputs. Allowed: a result, one sentence with exit code 2, or work that goes
on until the child's processor time is spent. A crash, a traceback, another status or a result that contradicts itself
is a defect.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from scripts.torture.claims import contradictions, contradictory_tables
from scripts.torture.faults import finish, fresh, start
from scripts.torture.files import MOST_BYTES, _status_bytes
from scripts.torture.inputs import small_trace
from scripts.torture.jobs import prepare
from scripts.torture.tally import Tally
from sim.assembly.build import PARTS
from sim.assembly.catalogue import rule_names
from sim.errors import sentence_of
from sim.paths import CONF, yaml_names
from sim.run.execute import execute
from traces.errors import UserError
from traces.format.files import write_trace

INTEGERS = (0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**70)
SHAPES = ("7", "true", "null", "[]", "{}", "''", "abc")
COMMANDS = {"config": "run"} | {name: name.replace("_", "-") for name in yaml_names(CONF) if name != "config"}
"""Yaml on top of conf -> the command that it configures."""
CPU_S = 6
"""Seconds of processor time that a case may take before it counts as at work."""


@dataclass(frozen=True)
class Case:
    """A command line that differs from one that works in one override."""

    command: str
    base: tuple[str, ...]
    override: str
    choice: bool = False
    """It chooses or removes a whole group, which is Hydra's to judge."""

    def __str__(self) -> str:
        return " ".join([self.command, *self.base, self.override])


def bases() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(yaml, overrides of a command line that works, the group whose knobs it is there for: "" for all)."""
    for name in COMMANDS:
        yield name, (), ""
    for system in yaml_names(CONF / "system"):
        yield "config", (f"system={system}",), "system"
    yield "config", ("model=gpt_oss_20b",), "model"
    for predictor in yaml_names(CONF / "predictor"):
        yield "train_predictor", (f"predictor={predictor}",), "predictor"
    for part in PARTS:
        for rule in rule_names(part):
            yield "config", (f"policy/{part}={rule}",), f"policy.{part}"


@cache
def composed(name: str, base: tuple[str, ...]) -> DictConfig:
    """The configuration of a command."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(base))


def nodes(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every group and knob below a group."""
    for key, value in config.items_ex(resolve=False):
        name = f"{prefix}{key}"
        yield name, value
        if isinstance(value, DictConfig):
            yield from nodes(value, f"{name}.")


def integer_cases() -> Iterator[Case]:
    """Every number, and every null that may be one, at every edge."""
    for name, base, group in bases():
        for key, value in nodes(composed(name, base)):
            number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            if number and key.startswith(group) and (group or not key.startswith("policy.")):
                yield from (Case(COMMANDS[name], base, f"{key}={number}") for number in INTEGERS)


def shape_cases() -> Iterator[Case]:
    """Every group and every knob as a number, a word, a list, an empty group, nothing."""
    for name, base, group in bases():
        config = composed(name, base)
        for key, value in nodes(config):
            if not key.startswith(group) or (base and not group):
                continue
            whole = isinstance(value, DictConfig)
            yield from (Case(COMMANDS[name], base, f"{key}={shape}", whole) for shape in SHAPES)
            if whole:
                yield Case(COMMANDS[name], base, f"~{key}", True)
                path = key.replace(".", "/")
                if "/" in path and (CONF / path).is_dir():
                    yield from (Case(COMMANDS[name], base, f"{path}={shape}", True) for shape in SHAPES)


class Runner:
    """Runs cases in children of this process, in which everything is imported and compiled."""

    def __init__(self, work: Path) -> None:
        self.work, self.warmed = work, set[tuple[str, ...]]()
        os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
        write_trace(work / "t.safetensors", small_trace(0, requests=6))
        self.inputs: dict[str, list[str]] = {
            "run": [f"trace.path={work / 't.safetensors'}", "engine=compiled"],
            "train-predictor": [f"trace.path={work / 't.safetensors'}", "train.max_epochs=1", "trace.fit_requests=3"],
            "calibrate": [f"trace.path={work / 't.safetensors'}", "seconds=0.1"],
            "record": [f"model={work / 'model'}", "max_new_tokens=4"],
            "quality": [f"model={work / 'model'}", "sizes=own"],
            "validate": ["budget_s=0.01"],
        }

    def warm(self, case: Case) -> None:
        """Import, compose and compile here what the case's children share."""
        words = (*self.inputs["run"], *case.base)
        if case.command != "run" or words in self.warmed:
            return
        self.warmed.add(words)
        config = composed("config", words)
        with suppress(UserError):  # some rules need another trace; their knobs are refused as well as others'
            execute(config, self.work / "warm")

    def run(self, case: Case) -> tuple[str, str]:
        """(outcome, defect or "")."""
        out, log = fresh(self.work / "out"), self.work / "log"
        if case.command == "run" and not case.choice:
            status = finish(start([], log, limit, lambda: self.execute(case, out)))
            return judge(status, log.read_text(errors="replace"), out)
        given = [word for word in self.inputs[case.command] if word.split("=")[0] != case.override.split("=")[0]]
        argv = [case.command, *given, *case.base, case.override, f"hydra.run.dir={out}"]
        status = finish(start(argv, log, limit))
        said = log.read_text(errors="replace")
        return judge(status, said, out)

    def execute(self, case: Case, out: Path) -> int:
        """Run a configuration that differs from a composed one in one knob -> exit status."""
        override = OverridesParser.create().parse_override(case.override)
        config = composed("config", (*self.inputs["run"], *case.base)).copy()
        try:
            OmegaConf.update(config, override.key_or_group, override.value())
            execute(config, out)
        except Exception as error:
            sentence = sentence_of(error)
            if sentence is None:
                raise
            print(f"error: {sentence}")
            return 2
        return 0


def limit() -> None:
    """Bound processor time and memory of a child."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_status_bytes("VmData") + MOST_BYTES,) * 2)


def judge(status: int, said: str, out: Path) -> tuple[str, str]:
    """What came of a case."""
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        return "at work", ""
    last = said.strip().splitlines()[-1][:160] if said.strip() else ""
    if "Traceback" in said or status not in (0, 2):
        return f"exit {status}", f"exit {status}: {last}"
    if status == 2:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        return "refused", "" if len(errors) == 1 else f"{len(errors)} sentences: {last}"
    metrics = out / "metrics.json"
    wrong = [*contradictions(json.loads(metrics.read_text())), *contradictory_tables(out)] if metrics.is_file() else []
    return "ran", "; ".join(wrong[:2])


def try_cases(what: str, cases: list[Case], count: int | None, seed: int) -> Tally:
    """Run the cases, or as many of them as `count`, drawn; those that share a base one after the other."""
    tally = Tally(what)
    if count is not None and count < len(cases):
        cases = random.Random(f"{seed} {what}").sample(cases, count)
    with tempfile.TemporaryDirectory() as work:
        runner = Runner(Path(work))
        if any(case.command in ("record", "quality") for case in cases):
            prepare(Path(work), ("record",))
        for case in sorted(cases, key=lambda case: (case.command, case.base)):
            runner.warm(case)
            outcome, defect = runner.run(case)
            tally.trials += 1
            tally.outcomes[outcome] += 1
            if defect:
                tally.defects[f"{case}: {defect}"] += 1
    return tally
