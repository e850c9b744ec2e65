"""One run: a replay driven from configuration to files, and the same replay with one thing idealised.

May import `sim.timeline`, `sim.systems` and below.
Start with `execute.py`; `what_if.py` for scenarios.
"""
