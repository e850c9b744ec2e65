"""Where this tool keeps what it can make again: compiled code and trained models."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_root() -> Path:
    """MOE_SIM_CACHE if set, else the user cache folder of this platform, else (no home) the temporary folder."""
    if os.environ.get("MOE_SIM_CACHE"):
        return Path(os.environ["MOE_SIM_CACHE"])
    from platformdirs import user_cache_path

    try:
        return user_cache_path("moe-offload-sim")
    except (RuntimeError, KeyError):
        return Path(tempfile.gettempdir()) / "moe-offload-sim"
