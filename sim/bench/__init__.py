"""A frozen suite of replays and text, and a score by which policies are ranked.

May import `sim.quality`, `sim.run` and below.
Start with `suite.py`.
"""
