"""Names of what the engines count and of the outcomes of demanded experts."""

PLAN = ("ready", "gpu", "cpu", "demand_copies", "giving_up")
"""Indices of ``Machine.plan``: experts ready to run, all GPU experts, CPU experts, demand copies queued, experts that
give up their slot once executed."""

HIT, LATE, FETCH, CPU_RUN, SUBSTITUTE, DROP = range(6)
"""Values of ``Machine.outcome``."""

COUNTERS = (
    "hits",
    "late",
    "fetches",
    "cpu",
    "substitutes",
    "drops",
    "demanded",
    "executed",
    "resident_executed",
    "routed_ranks",
    "substituted_ranks",
    "dropped_ranks",
    "demand_copies",
    "prefetch_copies",
    "copied_bytes",
    "evictions",
    "bypasses",
    "prefetch_used",
    "prefetch_late",
    "prefetch_wasted",
    "prefetch_cancelled",
    "overflow_steps",
)
"""Indices of ``Machine.counts``; the first six are the outcomes and sum to ``demanded``."""

(
    N_HITS,
    N_LATE,
    N_FETCHES,
    N_CPU,
    N_SUBSTITUTES,
    N_DROPS,
    N_DEMANDED,
    N_EXECUTED,
    N_RESIDENT_EXECUTED,
    N_ROUTED_RANKS,
    N_SUBSTITUTED_RANKS,
    N_DROPPED_RANKS,
    N_DEMAND_COPIES,
    N_PREFETCH_COPIES,
    N_COPIED_BYTES,
    N_EVICTIONS,
    N_BYPASSES,
    N_PREFETCH_USED,
    N_PREFETCH_LATE,
    N_PREFETCH_WASTED,
    N_PREFETCH_CANCELLED,
    N_OVERFLOW_STEPS,
) = range(len(COUNTERS))
