"""Where this project's files lie: its folder, and the configuration in it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"


def yaml_names(folder: Path) -> list[str]:
    """Names of the yamls in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
