"""What happens to residency and queues in one layer step, without a clock: the decisions that all engines call.

May import `sim.workload` and below.
Start with `core.py`; `demand.py` is the lookup, `slots.py` who holds memory, `device.py` allocates it all.
"""
