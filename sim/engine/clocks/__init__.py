"""When it happens: the SimPy model, the same as a compiled recurrence, and a replay that only counts.

May import `sim.engine` and below.
Start with `simpy_engine.py`: the model in its plainest form. `lean.py` is a short way of the recurrence.
"""
