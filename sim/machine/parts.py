"""The parts of a step's time: what every engine, metric and hardware parameter books time to."""

PARTS = ("attention", "expert", "link", "cpu", "launch", "sync", "host", "storage")
"""Where a token's time goes: computing attention and other dense parts, computing experts (shared ones included),
waiting for a copy, waiting for the CPU, kernel launches, synchronisation and router read-back, host decisions,
waiting for storage."""
ATTENTION, EXPERT, LINK_WAIT, CPU_WAIT, LAUNCH, SYNC, HOST, STORAGE_WAIT = range(len(PARTS))
