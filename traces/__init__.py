"""Routing traces: their format, recording, importing and statistics.

Imports nothing of sim or policies. In order: errors, caches, score_bands, corpus, embedded < format <
recording, statistics, importers < demo. Start at traces/README.md (the format), then `format.trace.Trace`.
"""

from traces.numba_cache import use_keyed_cache

use_keyed_cache()  # before anything imports numba: every package of this tool imports traces first
