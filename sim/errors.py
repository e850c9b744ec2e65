"""Turns errors of the configuration system into one sentence."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from sim.paths import CONF
from traces.errors import UserError
from traces.text import printable

NO_ROOM = r"failed to map segment|[Cc]annot allocate memory|can't start new thread|[Uu]nable to allocate"
"""What libraries say where a limit of memory or threads is reached."""
HEAVY = ("torch", "transformers", "tokenizers")
"""What recording, quality and trained predictors need, and replays do not."""
_BOOKKEEPING = ("full_key", "object_type", "reference_type", "See https://", "Config search path", "provider=")


def one_line(error: BaseException) -> str:
    """The cause of an error in one line, without the configuration system's own bookkeeping."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationKeyError

    chain: list[Any] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for one in chain:
        if isinstance(one, UserError):
            return str(one)
        if isinstance(one, OverrideParseException):
            return printable(f"{one.override} cannot be read as an override: {_said(one.message)}")
        if isinstance(one, MissingConfigException) and one.missing_cfg_file and one.options is not None:
            return _missing(str(one.missing_cfg_file), list(one.options))
        if isinstance(one, ConfigAttributeError | ConfigKeyError) and one.full_key:
            return _unknown(one)
        if isinstance(one, InterpolationKeyError):
            return printable(f"{one.full_key}: {_said(str(one))}")
    return printable(_said(str(chain[-1]) or str(error)) or type(error).__name__)


def _said(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_BOOKKEEPING))


def _missing(file: str, options: list[str]) -> str:
    """A group has no file of that name."""
    group, absolute, name = file.partition("//")  # a path that begins at the root
    group, _, name = (group, "", f"/{name}") if absolute else file.rpartition("/")
    near = get_close_matches(name, options, 1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(sorted(options))}"
    if group in PLUGINS and name in PLUGINS[group]:
        hint = f"it comes with the extra {PLUGINS[group][name]}: pip install -e '.[{PLUGINS[group][name]}]'"
    return printable(f"{group}={name} is not known: {hint}")


PLUGINS = {
    "hydra/sweeper": {"optuna": "sweep"},
    "hydra/launcher": {"joblib": "sweep", "submitit_slurm": "sweep", "submitit_local": "sweep", "ray": "ray"},
}
"""What extras bring: group -> choice -> extra."""


def _unknown(error: Any) -> str:
    """A key that its group does not have, with the nearest one that it has."""
    from omegaconf import DictConfig

    parent, _, name = str(error.full_key).rpartition(".")
    known = [str(key) for key in error.parent_node] if isinstance(error.parent_node, DictConfig) else []
    if "/" in name:  # the part of a policy, as policy/eviction
        known = sorted(path.relative_to(CONF).as_posix() for path in CONF.glob("*/*") if path.is_dir())
    near = get_close_matches(name, known, 1)
    before = f"{parent}." if parent else ""
    hint = f"did you mean {before}{near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
    return printable(f"{error.full_key} is not a key of the configuration: {hint}")


def system_error(error: OSError | MemoryError) -> str:
    """What the machine refused, in one sentence."""
    if isinstance(error, MemoryError):
        return printable(f"there is not enough memory: {error}".rstrip(": "))
    place = f"{error.filename}: " if error.filename else ""
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return printable(f"{error.filename} is no folder: must be a folder, or a name that nothing has")
    reason = error.strerror or re.sub(r"^\[Errno \d+\] ", "", str(error)) or type(error).__name__
    return printable(f"{place}{reason}")


def sentence_of(error: Exception) -> str | None:
    """What an error says to a user in one sentence; None where it is a fault of this tool."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return one_line(error)
    if isinstance(error, OSError | MemoryError):
        return system_error(error)
    if isinstance(error, UnicodeEncodeError):
        return printable(f"{error.object!r} is no UTF-8 text: give the file or folder another name")
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in HEAVY:
        return f"{error.name} is not installed, and this needs it: pip install moe-offload-sim, with all it depends on"
    if isinstance(error, ImportError | RuntimeError) and (found := re.search(NO_ROOM, str(error))):
        return printable(f"there is not enough memory: {found[0]}")
    return None
