"""The schemas of `conf/validate.yaml` and of its `published` group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from traces.errors import UserError


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """Which published measurements are predicted, and from which folder they are read."""

    name: str | None = None
    path: str | None = None
    """Folder with the published files."""
    seeds: int = 12
    """Seeds over which random eviction is averaged."""
    draws: int = 1000
    """Of the bootstrap that gives the intervals."""

    def __post_init__(self) -> None:
        for field, value in (("seeds", self.seeds), ("draws", self.draws)):
            if not 1 <= value <= 100_000:
                raise UserError(f"published.{field}={value}: must be from 1 to 100000")


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """Knobs of a validation by real runs; ``measure=false`` analyses what ``out`` holds once more."""

    out: str | None = None
    measure: bool = True
    repeats: int = 4
    tokens: int = 100
    gate: float = 0.1
    budget_s: float = 1500
    draws: int = 60
    machine: str | None = None
    """`hardware=` of the command line."""
    other_trace: str | None = None

    def __post_init__(self) -> None:
        if not self.measure and self.out is None:
            raise UserError("measure=false: give the folder of a finished validation, out=FOLDER")
        for field, value in (("repeats", self.repeats), ("tokens", self.tokens)):
            if not 1 <= value <= 100_000:
                raise UserError(f"{field}={value}: must be from 1 to 100000")
        if not 0 <= self.draws <= 10_000:
            raise UserError(f"draws={self.draws}: must be from 0 to 10000")
        if not 0 < self.gate <= 1:
            raise UserError(f"gate={self.gate:g}: must be above 0 and at most 1, which keeps every run")
        if not self.budget_s > 0:
            raise UserError(f"budget_s={self.budget_s:g}: must be above 0")


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
