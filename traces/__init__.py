"""Routing traces: their format, recording, importing and statistics."""

from traces.numba_cache import use_keyed_cache

use_keyed_cache()  # before anything imports numba: every package of this tool imports traces first
