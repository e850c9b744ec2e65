"""Where compiled code is cached: folders named by everything that goes into it, so that it is never stale."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from traces.user_cache import cache_root, make_private, who_else

ROOT = Path(__file__).resolve().parent.parent
COMPILED_FOLDERS = ("traces", "sim/machine", "sim/workload", "sim/engine")
OURS = "MOE_SIM_NUMBA_CACHE_DIR"
TEMPORARY = "MOE_SIM_NUMBA_TEMPORARY"


def shared_sources() -> list[Path]:
    """Every source that engines and all rules can contain; rules, one file each, have keys of their own."""
    compiled = [path for folder in COMPILED_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(compiled + list((ROOT / "policies").glob("*.py")))


def key_of(paths: Iterable[Path]) -> str:
    """sha256 over sources, and the versions of what compiles them."""
    digest = hashlib.sha256(f"{sys.version} numba {version('numba')} numpy {version('numpy')}".encode())
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def source_key() -> str:
    """The key of what engines and all rules share."""
    return key_of(shared_sources())


def use_keyed_cache() -> None:
    """Point numba's on-disk cache at the keyed folder, whether numba is loaded yet or not.

    Numba's own check looks only at the file of the compiled function: an edited helper would leave old code in use.
    A NUMBA_CACHE_DIR that the user set wins; one that a parent process of ours set does not. Compiled code is loaded as
    pickle, which may run anything: a folder that somebody else could have written into is not used.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen is not None and chosen != os.environ.get(OURS):
        root = folder = Path(chosen)
    else:
        root = cache_root()
        folder = root / "numba" / source_key()
        with suppress(OSError):  # numba looks for another place then
            make_private(folder.parent, root)
    fault = who_else(folder, root)
    if fault is not None:
        folder = _folder_of_this_process(fault)
    elif not writable(folder):
        compile_always(str(folder))
    if root == folder:
        return
    os.environ["NUMBA_CACHE_DIR"] = os.environ[OURS] = str(folder)
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(folder)


def _folder_of_this_process(fault: str) -> Path:
    """A folder for compiled code that is gone when the process ends; says why, once for it and what it starts."""
    given = os.environ.get(TEMPORARY)
    if given and Path(given).is_dir() and who_else(Path(given), Path(given)) is None:
        return Path(given) / "numba"
    print(f"compiled code is not kept: {fault}; every start compiles anew", file=sys.stderr)
    folder = tempfile.mkdtemp(prefix="moe-offload-sim-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[TEMPORARY] = folder
    return Path(folder) / "numba"


def writable(folder: Path) -> bool:
    """Whether files can be written in a folder, or in the nearest one above it that exists; makes none."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def compile_always(folder: str) -> None:
    """Let numba cache nothing: its own next choice, beside the sources, would not notice an edited helper."""
    from numba.core.dispatcher import Dispatcher

    Dispatcher.enable_caching = lambda self: None
    print(f"note: {folder} cannot be written: every start compiles the engine, 20 to 60 s", file=sys.stderr)


def nothing_compiled() -> bool:
    """Whether our cache folder does not exist yet: what is imported next is compiled, once."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    return folder is not None and folder == os.environ.get(OURS) and not Path(folder).exists()


def announce_compilation() -> None:
    """Say on standard error that the first run compiles, where nothing is compiled yet."""
    if nothing_compiled():
        print("compiling the engine, once, 20 to 60 s ...", file=sys.stderr)


def rule_sources(function: FunctionType) -> list[Path]:
    """The files a rule is made of: its own, and those of the functions and modules that it names."""
    files: dict[Path, None] = {}
    waiting, seen = [function], set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        files[Path(current.__code__.co_filename)] = None
        for name in current.__code__.co_names:
            value = current.__globals__.get(name)
            if isinstance(value, ModuleType) and getattr(value, "__file__", None) and not _installed(value):
                files[Path(str(value.__file__))] = None
            value = getattr(value, "py_func", value)
            if isinstance(value, FunctionType) and not _installed(sys.modules.get(value.__module__)):
                waiting.append(value)
    return sorted(files)


def _installed(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or "site-packages" in str(file) or str(file).startswith(sys.base_prefix)


@contextmanager
def rule_cache(function: FunctionType) -> Iterator[None]:
    """While it lasts, compiled code goes to a folder keyed by the shared sources and by those of one rule."""
    from numba import config

    before = config.CACHE_DIR
    if before == os.environ.get(OURS):
        config.CACHE_DIR = str(Path(before) / key_of(rule_sources(function)))
    try:
        yield
    finally:
        config.CACHE_DIR = before
