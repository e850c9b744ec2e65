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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from scripts.torture.claims import contradictions, contradictory_tables
from scripts.torture.faults import finish, fresh, start
from scripts.torture.files import MOST_BYTES, _status_bytes
from scripts.torture.inputs import small_trace
from scripts.torture.jobs import prepare
from scripts.torture.tally import Tally
from sim.__main__ import load
from sim.assembly.build import PARTS
from sim.assembly.catalogue import rule_names
from sim.assembly.model_source import model_overrides
from sim.errors import sentence_of
from sim.paths import CONF, yaml_names
from sim.run.execute import execute
from traces.errors import UserError
from traces.format.files import write_trace

EDGES = (0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**70, 1e300, 5e-324, "-0.0", "nan", "inf", "-inf")
PRODUCTS = (2**20, 2**31, 2**53, 2**63 - 1, 1e300, 5e-324)
"""What two numbers at once are set to: what each is allowed may be too much or too little together."""
SHAPES = ("7", "true", "null", "[]", "{}", "''", "abc")
COMMANDS = {"config": "run"} | {name: name.replace("_", "-") for name in yaml_names(CONF) if name != "config"}
"""Yaml on top of conf -> the command that it configures."""
SMALL_STUDY = (
    "sizes=own", "windows=2", "fit_windows=2", "tokens=32", "cloze.items=2", "cloze.context_tokens=16",
    "cloze.continuation_tokens=4", "generation.windows=1", "generation.prompt_tokens=8", "generation.new_tokens=4",
    "lines.items=1", "lines.left=2", "lines.prompt_tokens=8", "lines.new_tokens=4", "resume=false",
)  # fmt: skip
CPU_S, WALL_S = 3, 20
"""Seconds of processor time, and by the clock, that a case may take before it counts as at work."""


@dataclass(frozen=True)
class Case:
    """A command line that differs from one that works in one override, or in none."""

    command: str
    base: tuple[str, ...]
    override: str
    """Or several, between blanks."""
    choice: bool = False
    """It chooses or removes a whole group, which is Hydra's to judge."""

    def __str__(self) -> str:
        return " ".join([self.command, *self.base, self.override])


def bases(plain: bool = False) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(yaml, overrides of a command line that works, the group whose knobs it is there for: "" for all).

    plain: each command once, without overrides.
    """
    for name in COMMANDS:
        yield name, (), ""
    if plain:
        return
    for system in yaml_names(CONF / "system"):
        yield "config", (f"system={system}",), "system"
    yield "config", ("model=gpt_oss_20b",), "model"
    for predictor in yaml_names(CONF / "predictor"):
        yield "train_predictor", (f"predictor={predictor}",), "predictor"
    for part in PARTS:
        for rule in rule_names(part):
            yield "config", (f"policy/{part}={rule}",), f"policy.{part}"


@cache
def composed(name: str, base: tuple[str, ...], whole: bool = False) -> DictConfig:
    """The configuration of a command; whole: with Hydra's own part."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(base), return_hydra_config=whole)


def nodes(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every group and knob below a group."""
    for key, value in config.items_ex(resolve=False):
        name = f"{prefix}{key}"
        yield name, value
        if isinstance(value, DictConfig) and not value._is_none():
            yield from nodes(value, f"{name}.")


def integer_cases(plain: bool = False) -> Iterator[Case]:
    """Every number, and every null that may be one, at every edge."""
    for name, base, group in bases(plain):
        for key, value in nodes(composed(name, base)):
            if is_number(value) and key.startswith(group) and (group or not key.startswith("policy.")):
                yield from (Case(COMMANDS[name], base, f"{key}={number}") for number in EDGES)


def is_number(value: Any) -> bool:
    """Whether a knob has a number, or nothing in the place of one."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def product_cases(count: int, rng: random.Random) -> Iterator[Case]:
    """So many pairs of numbers of one command, drawn, each far from what it is."""
    for name in rng.choices(["config", *COMMANDS], k=count):  # most of what is multiplied is a run's
        knobs = [key for key, value in nodes(composed(name, ())) if is_number(value)]
        pair = rng.sample(knobs, 2)
        yield Case(COMMANDS[name], (), " ".join(f"{key}={rng.choice(PRODUCTS)}" for key in pair))


def shape_cases(plain: bool = False) -> Iterator[Case]:
    """Every group and every knob as a number, a word, a list, an empty group, nothing."""
    for name, base, group in bases(plain):
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
        model = model_overrides(f"model={work / 'model'}")
        self.inputs: dict[str, list[str]] = {
            "run": [f"trace.path={work / 't.safetensors'}", "engine=compiled"],
            "train-predictor": [f"trace.path={work / 't.safetensors'}", "train.max_epochs=1", "trace.fit_requests=3"],
            "calibrate": [f"trace.path={work / 't.safetensors'}", "seconds=1", "portion_s=0.1"],
            "record": [*model, f"prompts={work / 'p.txt'}", "prompt_tokens=8", "max_new_tokens=4"],
            "quality": [*model, *SMALL_STUDY],
            "validate": ["budget_s=0.01"],
        }

    def warm(self, case: Case) -> None:
        """Import, compose and compile here what the case's children share."""
        words = (*self.inputs[case.command], *case.base)
        if case.choice or words in self.warmed:
            return
        self.warmed.add(words)
        config = composed(yaml_of(case.command), words)
        if case.command == "run":
            with suppress(UserError):  # some rules need another trace; their knobs are refused as well as others'
                execute(config, self.work / "warm")
        elif case.command in ("record", "quality"):
            from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeForCausalLM  # noqa: F401

            import traces.recording.recorder  # noqa: F401

    def run(self, case: Case) -> tuple[str, str]:
        """(outcome, defect or "")."""
        out, log = fresh(self.work / "out"), self.work / "log"
        if case.choice:
            given = [word for word in self.inputs[case.command] if word.split("=")[0] != case.override.split("=")[0]]
            places = [f"hydra.run.dir={out}", f"hydra.sweep.dir={out}"]
            words = [case.command, *places, *given, *case.base, *case.override.split()]
            status = finish(start(words, log, self.prepare_child))
        else:
            status = finish(start([], log, self.prepare_child, lambda: self.execute(case, out)))
        return judge(status, log.read_text(errors="replace"), out)

    def prepare_child(self) -> None:
        """Bound a child, in a folder where a drawn name of a file may land."""
        limit()
        os.chdir(self.work)

    def execute(self, case: Case, out: Path) -> int:
        """Run a command as configured, but for one knob, without composing the rest again -> exit status."""
        overrides = OverridesParser.create().parse_overrides(case.override.split())
        config = composed(yaml_of(case.command), (*self.inputs[case.command], *case.base)).copy()
        hydra = composed(yaml_of(case.command), (f"hydra.run.dir={out}",), whole=True).copy()
        with open_dict(hydra):
            hydra.hydra.runtime.output_dir, hydra.hydra.mode = str(out), RunMode.RUN
        HydraConfig.instance().set_config(hydra)
        try:
            for override in overrides:
                OmegaConf.update(config, override.key_or_group, override.value())
            task_of(case.command)(config)
        except Exception as error:
            sentence = sentence_of(error)
            if sentence is None:
                raise
            print(f"error: {sentence}")
            return 2
        return 0


def yaml_of(command: str) -> str:
    """The yaml on top of conf that configures a command."""
    return next(name for name, known in COMMANDS.items() if known == command)


@cache
def task_of(command: str) -> Callable[[DictConfig], object]:
    """What a command does with its composed configuration."""
    tasks: list[Callable[[DictConfig], object]] = []
    module: Any = load(command)

    def keep(_: str, __: list[str], task: Callable[[DictConfig], object], *___: str) -> int:
        tasks.append(task)
        return 0

    with patch.object(module, "run_hydra_command", keep):
        module.main([])
    return tasks[0]


def limit() -> None:
    """Bound processor time and memory of a child."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    signal.alarm(WALL_S)
    for number in (signal.SIGXCPU, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_status_bytes("VmData") + MOST_BYTES,) * 2)


def judge(status: int, said: str, out: Path) -> tuple[str, str]:
    """What came of a case."""
    if status in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
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


def few(cases: list[Case], count: int, rng: random.Random) -> list[Case]:
    """So many cases, an eighth of them whole groups if not all are; a knob of several commands counts for the first."""
    first = list({case.override: case for case in reversed(cases)}.values())
    groups, knobs = ([case for case in first if case.choice is whole] for whole in (True, False))
    some = count if not knobs else count // 8 if groups else 0
    return [*rng.sample(groups, some), *rng.sample(knobs, count - some)]


def try_cases(what: str, cases: list[Case], count: int | None, seed: int) -> Tally:
    """Run the cases, or as many of them as `count`, drawn; those that share a base one after the other."""
    tally = Tally(what)
    if count is not None:
        cases = few(cases, count, random.Random(f"{seed} {what}"))
    with tempfile.TemporaryDirectory() as work:
        runner = Runner(Path(work))
        if count is None:  # what differs in nothing must work
            cases += [Case(command, (), "") for command in COMMANDS.values()]
        if any(case.command in ("record", "quality") for case in cases):
            prepare(Path(work), ("record",))
        for case in sorted(cases, key=lambda case: (case.command, case.base)):
            runner.warm(case)
            outcome, defect = runner.run(case)
            tally.trials += 1
            tally.outcomes[outcome] += 1
            if outcome == "refused" and not case.override:
                defect = "refused as it is"
            if defect:
                tally.defects[f"{case}: {defect}"] += 1
    return tally
