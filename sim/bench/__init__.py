"""A frozen suite of replays, and a score by which policies are ranked.

May import `sim.run` and below.
Start with `suite.py`.
"""
