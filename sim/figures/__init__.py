"""Figures: `drawings/` holds a module per figure or family, each a function of a table; beside it what they share.

May import `sim.results` and below; matplotlib.
Start with `registry.py`.
"""
