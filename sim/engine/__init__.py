"""Engines: what every one of them offers (`interface.py`), what happens (`decision`), and when (`clocks`).

May import `sim.workload` and below.
Start with `interface.py`, then `decision/core.py`.
"""
