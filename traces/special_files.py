"""Refuses what is no file where one is read: opening a FIFO waits for ever, a device may never end."""

from __future__ import annotations

import stat
from pathlib import Path

from traces.errors import UserError

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def require_regular(path: Path) -> Path:
    """`path` where it is a regular file, or nothing that exists: whoever opens it says that.

    Raises: UserError for a FIFO, a socket, a device, a folder.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return path
    if kind in KINDS:
        raise UserError(f"{path} is {KINDS[kind]}: must be a file")
    return path
