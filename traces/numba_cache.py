"""Where compiled code is cached: a folder named by everything that goes into it, so that it is never stale."""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.metadata import version
from pathlib import Path

from traces.user_cache import cache_root

ROOT = Path(__file__).resolve().parent.parent
COMPILED_FOLDERS = ("traces", "policies", "sim/engine")
OURS = "MOE_SIM_NUMBA_CACHE_DIR"


def source_key() -> str:
    """sha256 over every source that compiled code can contain, and the versions of what compiles it."""
    digest = hashlib.sha256(f"{sys.version} numba {version('numba')} numpy {version('numpy')}".encode())
    for folder in COMPILED_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def use_keyed_cache() -> None:
    """Point numba's on-disk cache at the keyed folder, whether numba is loaded yet or not.

    Numba's own check looks only at the file of the compiled function: an edited helper would leave old code in use.
    A NUMBA_CACHE_DIR that the user set wins; one that a parent process of ours set does not.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen is not None and chosen != os.environ.get(OURS):
        return
    folder = str(cache_root() / "numba" / source_key())
    os.environ["NUMBA_CACHE_DIR"] = os.environ[OURS] = folder
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder
