"""Names of what the engines count, of the outcomes of demanded experts, and of the parts of a step's time."""

PLAN = ("ready", "gpu", "cpu", "demand_copies", "may_give_up", "back_ns")
"""Indices of ``Machine.plan``: experts ready to run, all GPU experts, CPU experts, demand copies queued, whether an
expert may hold something that it gives up once executed; what writing back the victims of the copy that started last
takes."""

HIT, LATE, FETCH, CPU_RUN, SUBSTITUTE, DROP, DEGRADE = range(7)
"""Values of ``Machine.outcome``."""

FULL, PIECE, LOW_COPY = range(3)
"""Values of ``Machine.copy_kind``: a whole expert, a piece of one, one in low precision."""

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
)
"""Indices of ``Machine.counts``; the first seven are the outcomes and sum to ``demanded``. A prefetch that started ends
as used, late, wasted or (paused between two pieces, then not wanted) abandoned; one that never started is cancelled."""

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
) = range(len(COUNTERS))

PARTS = ("attention", "expert", "link", "cpu", "launch", "sync", "host")
"""Where a token's time goes: computing attention and other dense parts, computing experts (shared ones included),
waiting for a copy, waiting for the CPU, kernel launches, synchronisation and router read-back, host decisions."""
ATTENTION, EXPERT, LINK_WAIT, CPU_WAIT, LAUNCH, SYNC, HOST = range(len(PARTS))
