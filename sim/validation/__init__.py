"""Simulated beside measured: real runs of our own (`live.py`), and what others published (`published`).

May import `sim.calibrate` and below.
Start with `live.py`.
"""
