"""Policies inside a live forward pass: what substitution costs in quality, and what it gains in time.

May import `sim.run`, `sim.live` and below; torch.
Start with `study.py`, then `loop.py`.
"""
