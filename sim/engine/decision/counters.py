"""Names of what the engines count, and of the outcomes of demanded experts."""

HIT, LATE, FETCH, CPU_RUN, SUBSTITUTE, DROP, DEGRADE = range(7)
NUM_OUTCOMES = 7
"""Values of ``Cache.outcome``."""

FULL, CHUNK, LOW_COPY = range(3)
"""Values of ``Cache.copy_kind``: a whole expert, a chunk of one, one in low precision."""

COUNTERS = (
    "hits",
    "late",
    "fetches",
    "cpu",
    "substitutes",
    "drops",
    "degrades",
    "demanded",
    "executed",
    "resident_executed",
    "routed_ranks",
    "substituted_ranks",
    "dropped_ranks",
    "degraded_ranks",
    "demand_copies",
    "prefetch_copies",
    "copied_bytes",
    "written_back_bytes",
    "evictions",
    "bypasses",
    "prefetch_used",
    "prefetch_late",
    "prefetch_wasted",
    "prefetch_abandoned",
    "prefetch_cancelled",
    "overflow_steps",
    "host_hits",
    "host_misses",
    "storage_bytes",
)
"""Indices of ``Cache.counts``; the first seven are the outcomes and sum to ``demanded``. A prefetch that started ends
as used, late, wasted or (stopped on the link or between two chunks, then not wanted) abandoned; one that never started
is cancelled. One of background admission is used or late when it is demanded for the first time, wasted when it is
evicted before; what waits when a replay ends or a cache is emptied counts as neither.
The last three count where storage lies behind host memory: what was served from one or read from the other."""

(
    N_HITS,
    N_LATE,
    N_FETCHES,
    N_CPU,
    N_SUBSTITUTES,
    N_DROPS,
    N_DEGRADES,
    N_DEMANDED,
    N_EXECUTED,
    N_RESIDENT_EXECUTED,
    N_ROUTED_RANKS,
    N_SUBSTITUTED_RANKS,
    N_DROPPED_RANKS,
    N_DEGRADED_RANKS,
    N_DEMAND_COPIES,
    N_PREFETCH_COPIES,
    N_COPIED_BYTES,
    N_WRITTEN_BACK_BYTES,
    N_EVICTIONS,
    N_BYPASSES,
    N_PREFETCH_USED,
    N_PREFETCH_LATE,
    N_PREFETCH_WASTED,
    N_PREFETCH_ABANDONED,
    N_PREFETCH_CANCELLED,
    N_OVERFLOW_STEPS,
    N_HOST_HITS,
    N_HOST_MISSES,
    N_STORAGE_BYTES,
) = range(len(COUNTERS))
