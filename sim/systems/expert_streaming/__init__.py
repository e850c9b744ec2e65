"""Expert Streaming: one MoE layer on a package of chiplets, beside expert parallelism on the same routing, in SimPy.

May import `sim.machine`, `sim.metrics`, `sim.results` and below; simpy. Start with `run.py`, then `scheme.py`.
"""
