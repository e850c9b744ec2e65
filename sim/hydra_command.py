"""Runs a command of `python -m sim` whose configuration Hydra composes from overrides."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import hydra.core.utils
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sim.config import suggest
from sim.errors import one_line, sentence_of
from sim.group_files import mark_set, with_files
from sim.paths import CONF
from sim.ranges import OneOf
from sim.terminal import visible_output
from traces.errors import UserError
from traces.whole_file import STANDARD_OUTPUT, write_whole

SWEEP_FLAGS = ("-m", "--multirun")
PLACES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "sweep.name", "out")
"""Overrides that say where something is written."""
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")


def _save(config: Any, path: str | Path, resolve: bool = False) -> None:
    write_whole(Path(path), OmegaConf.to_yaml(config, resolve=resolve).encode())


# Hydra's own writers leave half a file under its name where the disk is full, and do not say which.
hydra.core.utils._save_config = lambda cfg, filename, output_dir: _save(cfg, output_dir / filename)
OmegaConf.save = staticmethod(_save)  # type: ignore[method-assign, assignment]


def run_hydra_command(
    command: str, overrides: Sequence[str], task: Callable[[DictConfig], Any], config_name: str | None = None
) -> int:
    """Pass the composed configuration to `task`, for every job of a sweep -> 0; ``-m`` may stand anywhere.

    `GROUP=PATH.yaml` takes that file, see `sim.group_files`.

    `config_name`: the file in conf; None: that of the command's name. The output folder of a job that failed before it
    wrote anything is removed.

    Raises: UserError or OmegaConfBaseException where the configuration was refused.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors to the caller instead of printing a traceback
    refusals: list[BaseException] = []
    process = os.getpid()
    raised: list[BaseException] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name or command.replace("-", "_"))
    def job(config: DictConfig) -> Any:
        try:
            with visible_output():  # a job of a sweep may run in another process
                mark_set(config, HydraConfig.get())
                return task(config)
        except BaseException as error:
            raised.append(error)
            remove_unused(output_folder())
            if (
                is_sweep()
            ):  # of bad input Hydra says which job it was; of the machine's troubles only where jobs are ours
                refused = isinstance(error, OSError | MemoryError) and os.getpid() == process
            else:
                refused = isinstance(error, UserError | OmegaConfBaseException | OSError | MemoryError) or (
                    isinstance(error, ModuleNotFoundError) and sentence_of(error) is not None
                )
            if not refused:
                raise
            refusals.append(error)  # raised past Hydra, which would print the overrides above the one sentence
            return None

    _check_places(overrides)
    flags, words = split_flags(command, overrides)
    _check_words(words)
    words = with_files(words)
    before = sys.argv
    sys.argv = [f"python -m sim {command}", *words, *flags]
    try:
        job()
    except Exception as error:
        if any(one in raised for one in _chain(error)) or sentence_of(error) is not None:
            raise
        if _in_composition(error):
            raise UserError(not_composed(config_name or command.replace("-", "_"), words, flags, error)) from error
        settings = [word for word in words if _is_hydra_s(word)]
        if not settings or not _in_launcher(error):
            raise
        raise UserError(f"{' '.join(settings)}: {type(error).__name__} in the launcher: {_said_by(error)}") from error
    finally:
        sys.argv = before
    if refusals:
        raise refusals[0]
    return 0


def _check_places(overrides: Sequence[str]) -> None:
    """Raises: UserError for an empty place, which would be the present folder, and for streams as a run's folder."""
    for word in overrides:
        name, equals, value = word.lstrip("+").partition("=")
        if equals and name in PLACES and not value.strip(" '\""):
            raise UserError(f"{word}: must be a name, not an empty one")
        if equals and name in FOLDERS and value.strip(" '\"") == STANDARD_OUTPUT:
            raise UserError(f"{word}: several files are written, so it must be a folder")


def _check_words(words: Sequence[str]) -> None:
    """Raises: UserError for a word that is no override; the name of a shipped choice is told its group."""
    for word in words:
        if "=" in word or word.startswith("~"):
            continue
        files = [file.relative_to(CONF) for file in CONF.rglob("*.yaml") if file.stem == word and file.parent != CONF]
        groups = sorted((file.parent.as_posix() for file in files), key=lambda group: (group.count("/"), group))
        meant = " or ".join(f"{group}={word}" for group in groups)
        raise UserError(f"{word}: an override is KEY=VALUE, {f'did you mean {meant}?' if meant else 'as policy=lru'}")


def split_flags(command: str, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """(Hydra's flags with their values, the overrides), whatever their order; ``-m`` counts once.

    Raises: UserError for an unknown flag, and for a flag without its value.
    """
    from hydra._internal.utils import get_args_parser

    known = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    flags: list[str] = []
    words, waiting = [], list(given)
    while waiting:
        word = waiting.pop(0)
        name, equals, _ = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
        elif name not in known:
            meant = f"{name.lstrip('-')}=" + (f"{waiting[0]}" if waiting and "=" not in waiting[0] else "VALUE")
            is_key = (CONF / name.lstrip("-")).is_dir()
            hint = f"overrides have no dashes: did you mean {meant}?" if is_key else suggest(name, [*known])
            raise UserError(f"{word} is not a flag of {command}: {hint}")
        elif word in SWEEP_FLAGS:
            flags += [] if any(flag in SWEEP_FLAGS for flag in flags) else [word]
        elif known[name].nargs == 0:
            if equals:
                raise UserError(f"{word}: {name} takes no value")
            flags.append(word)
        else:
            value = [] if equals or not waiting or "=" in waiting[0] else [waiting.pop(0)]
            if not (equals or value or known[name].nargs):
                raise UserError(f"{name} has no value: write {name} VALUE")
            choices, chosen = known[name].choices, value[0] if value else word.partition("=")[2]
            if choices is not None and chosen and chosen not in choices:
                raise UserError(f"{name} {chosen}: must be {OneOf(*choices)}")
            flags += [word, *value]
    return flags, words


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _in_composition(error: Exception) -> bool:
    """Whether an error arose while Hydra read flags or composed a configuration, and not while it ran jobs."""
    files = [Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)]
    return "config_loader_impl.py" in files or not any("launcher" in file for file in files)


def _is_hydra_s(word: str) -> bool:
    """Whether an override sets something of Hydra's own other than a place, which has a check of its own."""
    return word.lstrip("+~").startswith(("hydra.", "hydra/")) and word.partition("=")[0] not in PLACES


def _in_launcher(error: Exception) -> bool:
    """Whether a launcher refused its settings: an error of a kind of Python itself, not of a job, nor a dead worker."""
    own = str(CONF.parent / "sim")
    frames = [frame for one in _chain(error) for frame in traceback.extract_tb(one.__traceback__)]
    inner = frames[
        next((i for i, frame in enumerate(frames) if "launcher" in Path(frame.filename).name), len(frames)) :
    ]
    elsewhere = any("Remote" in type(one).__name__ for one in _chain(error))
    plain = type(error).__module__ == "builtins"  # launchers have their own for a worker that died
    return plain and bool(inner) and not elsewhere and not any(frame.filename.startswith(own) for frame in inner)


def _said_by(error: Exception) -> str:
    """What an error says; of an assertion, what it demands."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    if isinstance(error, AssertionError) and last and (last[0].line or "").startswith("assert "):
        return "must keep " + str(last[0].line).removeprefix("assert ")
    return one_line(error)


def not_composed(config_name: str, words: Sequence[str], flags: Sequence[str], error: Exception) -> str:
    """What Hydra could not compose, in words: the first override that it does not take alone, else all that are for
    Hydra itself, else all flags."""
    said = _said_by(error)
    for word in words:
        try:
            compose_again(config_name, [word])
        except Exception as alone:
            if type(alone) is type(error):
                if said.startswith("Config group override must be"):
                    return f"{word}: must be the name of a file in that group"
                return f"{word}: cannot be composed: {said}"
    settings = [word for word in words if _is_hydra_s(word)]
    return f"{' '.join(settings or [*flags, *words]) or config_name}: cannot be composed: {said}"


def compose_again(config_name: str, words: list[str]) -> None:
    """Compose a configuration outside of a command."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose(config_name, words, return_hydra_config=True)


def output_folder() -> Path:
    """The output folder of the job that is running."""
    return Path(HydraConfig.get().runtime.output_dir)


def is_sweep() -> bool:
    """Whether the job that is running is one of a sweep."""
    return bool(HydraConfig.get().mode != RunMode.RUN)


def remove_unused(folder: Path) -> None:
    """Remove the output folder of a job that was refused before it wrote anything."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".hydra"}:
        shutil.rmtree(folder)
