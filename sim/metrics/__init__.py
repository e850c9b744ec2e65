"""Metrics: each defined once, and the sums over steps, batches and requests that they are computed from.

May import `sim.assembly` and below.
Start with `registry.py`.
"""
