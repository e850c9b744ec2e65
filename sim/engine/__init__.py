"""Engines: what every one of them offers (`interface.py`), what happens (`decision`), and when (`clocks`).

`invariants.py` checks what holds of a device after every replay.

May import `sim.workload` and below.
Start with `interface.py`, then `decision/core.py`.
"""
