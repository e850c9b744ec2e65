"""Figures: one module per figure or family, each a function of a table.

May import `sim.results` and below; matplotlib.
Start with `registry.py`.
"""
