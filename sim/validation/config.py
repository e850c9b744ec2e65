"""The schema of the `published` group, and where its files are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from traces.errors import UserError


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """Which published measurements are predicted, and from which folder they are read."""

    name: str | None = None
    path: str | None = None
    """Folder with the files; null: the first of ``search`` that exists."""
    seeds: int = 12
    """Seeds over which random eviction is averaged."""
    draws: int = 1000
    """Of the bootstrap that gives the intervals."""

    def __post_init__(self) -> None:
        for field, value in (("seeds", self.seeds), ("draws", self.draws)):
            if not 1 <= value <= 100_000:
                raise UserError(f"published.{field}={value}: must be from 1 to 100000")


def find_folder(config: PublishedConfig, search: tuple[str, ...], files: tuple[str, ...], origin: str) -> Path:
    """The folder that holds all ``files``.

    Raises: UserError that says where the files can be had.
    """
    if config.path is None:
        for name in search:
            if all((Path(name) / file).is_file() for file in files):
                return Path(name)
        raise UserError(
            f"published.path is not set and {' and '.join(search)} do not hold {', '.join(files)}: "
            f"give the folder that does, from {origin}"
        )
    folder = Path(config.path).expanduser()
    for file in files:
        if not (folder / file).is_file():
            raise UserError(f"published.path={config.path} holds no {file}: the files are those of {origin}")
    return folder
