"""The runs of one job: every combination of the values in `sweep.grid`, so that starting a job does not dominate."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sim.assembly.build import GROUPS
from sim.config import SweepConfig, to_plain_dict, validate
from sim.group_files import keys_of, mark_figure
from traces.errors import UserError


@dataclass(frozen=True, slots=True)
class OneRun:
    """A configuration without grid, and the overrides that tell it from its neighbours."""

    config: DictConfig
    words: tuple[str, ...]


def axes(grid: dict[str, Any], prefix: str = "") -> list[tuple[str, list[Any]]]:
    """(key, values) of every list in a nested `sweep.grid`, in order.

    Raises: UserError where a key has no list, or an empty one.
    """
    found: list[tuple[str, list[Any]]] = []
    for name, value in grid.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            found += axes(value, f"{key}.")
        elif isinstance(value, list) and value:
            found.append((key, value))
        else:
            raise UserError(f"sweep.grid.{key}={value}: must be a list of at least one value, as [0.25,0.5]")
    return found


def expand(config: DictConfig, words: list[str]) -> Iterator[OneRun]:
    """One run for every combination of the grid's values, the last key varying fastest.

    `words`: the overrides of the job. Raises: UserError for a key that the configuration does not have, or a group,
    which is chosen when a job is composed.
    """
    listed = axes(validate(SweepConfig, to_plain_dict(config.get("sweep"), "sweep"), "sweep.").grid)
    for key, _ in listed:
        if key in GROUPS or isinstance(OmegaConf.select(config, key), DictConfig):
            raise UserError(f"sweep.grid.{key}: a group is chosen once per job: sweep it with -m {key}=A,B")
        if not _has(config, key):
            raise UserError(f"sweep.grid.{key}: {key} is not a key of the configuration")
    return _combinations(config, words, listed)


def _combinations(config: DictConfig, words: list[str], listed: list[tuple[str, list[Any]]]) -> Iterator[OneRun]:
    """One by one: a configuration takes some milliseconds to copy."""
    known = keys_of([*words, *(f"{key}=" for key, _ in listed)])
    for values in product(*(values for _, values in listed)):
        own = copy.deepcopy(config)
        OmegaConf.update(own, "sweep.grid", {}, merge=False)
        for (key, _), value in zip(listed, values, strict=True):
            OmegaConf.update(own, key, value, merge=False)
            mark_figure(own, key, known)
        assigned = [f"{key}={value}" for (key, _), value in zip(listed, values, strict=True)]
        yield OneRun(own, (*words, *assigned))


def _has(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    group = OmegaConf.select(config, parent) if parent else config
    return isinstance(group, DictConfig) and name in group
