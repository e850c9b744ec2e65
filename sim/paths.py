"""Where this project's files lie: its folder, and the configuration in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"


def yaml_names(folder: Path) -> list[str]:
    """Names of the yamls in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def files_named(folder: Path, name: str) -> Iterator[Path]:
    """Files of a name below a folder; what vanishes while it is looked at is passed over."""
    for path, _, files in os.walk(folder):
        if name in files:
            yield Path(path) / name
