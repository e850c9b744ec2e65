"""Runs a command of `python -m sim` whose configuration Hydra composes from overrides."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sim.paths import CONF
from traces.errors import UserError

SWEEP_FLAGS = ("-m", "--multirun")


def run_hydra_command(
    command: str, overrides: Sequence[str], task: Callable[[DictConfig], Any], config_name: str | None = None
) -> int:
    """Pass the composed configuration to `task`, for every job of a sweep -> 0; ``-m`` may stand anywhere.

    `config_name`: the file in conf; None: that of the command's name. The output folder of a job that failed before it
    wrote anything is removed.

    Raises: UserError or OmegaConfBaseException where the configuration was refused.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors to the caller instead of printing a traceback
    refusals: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name or command.replace("-", "_"))
    def job(config: DictConfig) -> Any:
        try:
            return task(config)
        except BaseException as error:
            remove_unused(output_folder())
            if not isinstance(error, UserError | OmegaConfBaseException) or is_sweep():
                raise  # Hydra says which job of a sweep it was
            refusals.append(error)  # raised past Hydra, which would print the overrides above the one sentence
            return None

    flags = [word for word in overrides if word in SWEEP_FLAGS]
    before = sys.argv
    sys.argv = [f"python -m sim {command}", *flags[:1], *(word for word in overrides if word not in SWEEP_FLAGS)]
    try:
        job()
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):
            raise
        raise UserError(f"{_unnamed_choice(overrides)}: must be the name of a file in that group") from error
    finally:
        sys.argv = before
    if refusals:
        raise refusals[0]
    return 0


def _unnamed_choice(overrides: Sequence[str]) -> str:
    """The first override that chooses a file of a group by something that is no name, such as a number."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parse = OverridesParser.create().parse_override
    choices = [parse(word) for word in overrides if not word.startswith("-")]
    return next(
        str(choice.input_line)
        for choice in choices
        if ("/" in choice.key_or_group or (CONF / choice.key_or_group).is_dir())
        and not isinstance(choice.value(), str | list)
    )


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
