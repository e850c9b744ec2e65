"""The schemas of `conf/validate.yaml` and of its `published` group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sim.ranges import Positive, Range, check_ranges
from traces.errors import UserError


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """Which published measurements are predicted, and from which folder they are read."""

    name: str | None = None
    path: str | None = None
    """Folder with the published files."""
    seeds: Annotated[int, Range(1, 100_000)] = 12
    """Seeds over which random eviction is averaged."""

    def __post_init__(self) -> None:
        check_ranges(self, "published.")


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """Knobs of a validation by real runs; ``measure=false`` analyses what ``out`` holds once more."""

    out: str | None = None
    measure: bool = True
    repeats: Annotated[int, Range(1, 100_000)] = 4
    tokens: Annotated[int, Range(1, 100_000)] = 100
    gate: Annotated[float, Range(0, 1, above=True)] = 0.1
    budget_s: Positive = 1500
    draws: Annotated[int, Range(0, 10_000)] = 60
    machine: str | None = None
    """`hardware=` of the command line; ``software``: `runtime=`."""
    software: str | None = None
    other_trace: str | None = None

    def __post_init__(self) -> None:
        if not self.measure and self.out is None:
            raise UserError("measure=false: give the folder of a finished validation, out=FOLDER")
        if (self.machine is None) != (self.software is None):
            raise UserError("hardware and runtime: give both files of one calibration, or neither")
        check_ranges(self)


def require_files(config: PublishedConfig, files: tuple[str, ...], origin: str) -> Path:
    """The folder ``published.path``, which holds all ``files``.

    Raises: UserError that says where the files can be had.
    """
    if config.path is None:
        raise UserError(f"published.path is not set: give the folder that holds {', '.join(files)}, from {origin}")
    folder = Path(config.path).expanduser()
    for file in files:
        if not (folder / file).is_file():
            raise UserError(f"published.path={config.path} holds no {file}: the files are those of {origin}")
    return folder
