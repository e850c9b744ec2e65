"""How sure a number is: bootstrap intervals, paired comparisons, what the uncertainty of a machine's figures adds.

May import `sim.metrics` and below.
Start with `pairs.py`.
"""
