"""OD-MoE: a cluster of a main node, a shadow that announces experts, and workers with one expert each, in SimPy.

May import `sim.machine`, `sim.metrics`, `sim.results` and below; simpy. Start with `run.py`, then `decode.py`.
"""
