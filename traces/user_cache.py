"""Where this tool keeps what it can make again: compiled code and trained models."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NAME = "moe-offload-sim"


def cache_root() -> Path:
    """MOE_SIM_CACHE if set, else the user cache folder of this platform, else (no home that can be written) a folder of
    this user's own in the temporary folder."""
    if os.environ.get("MOE_SIM_CACHE"):
        return Path(os.environ["MOE_SIM_CACHE"])
    from platformdirs import user_cache_path

    with suppress(RuntimeError, KeyError):
        path = user_cache_path(NAME)
        above = next((folder for folder in (path, *path.parents) if folder.exists()), path)
        if path.is_absolute() and os.access(above, os.W_OK | os.X_OK):
            return path
    return Path(tempfile.gettempdir()) / f"{NAME}-{user()}"


def user() -> str:
    """Who runs this, as a name for files: the number of the user, or the name where users have none."""
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


def make_private(folder: Path, root: Path) -> None:
    """Make a folder in ``root`` and those between, for this user alone; what is there stays. Raises: OSError."""
    root.parent.mkdir(parents=True, exist_ok=True)
    for place in _way(folder, root):
        with suppress(FileExistsError):
            place.mkdir(mode=0o700)


def who_else(folder: Path, root: Path) -> str | None:
    """Who else could have put something into ``folder``, which lies in ``root``: a sentence's end, or None for nobody.

    Looked at, links themselves first: ``root``, everything on the way down to ``folder``, and everything in it.
    """
    if not hasattr(os, "getuid"):  # the folders of a Windows user are that user's
        return None
    return next((fault for path in (*_way(folder, root), *_below(folder)) if (fault := _fault(path))), None)


def _way(folder: Path, root: Path) -> list[Path]:
    """``root``, the folders between, and ``folder``."""
    parts = folder.relative_to(root).parts
    return [root.joinpath(*parts[:count]) for count in range(len(parts) + 1)]


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place) / name for name in (*folders, *files))


def _fault(path: Path) -> str | None:
    """Why a folder or file may hold what others wrote; None where it may not, or does not exist."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            if found.st_uid not in (0, os.getuid()):
                return f"{path} is a link of another user"
            found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be looked at ({error.strerror})"
    if found.st_uid != os.getuid():
        return f"{path} belongs to another user"
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _own_group(found.st_gid)):
        return f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def _own_group(group: int) -> bool:
    """Whether nobody but this user is in a group, as in the groups that systems make for each user."""
    import grp
    import pwd

    try:
        me, members = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return group == me.pw_gid and members.gr_name == me.pw_name and set(members.gr_mem) <= {me.pw_name}
