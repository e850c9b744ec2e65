"""Measures this machine into a hardware file: microbenchmarks, and two runs of the real execution itself.

May import `sim.execution` and below.
Start with `measure.py`.
"""
