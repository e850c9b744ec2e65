"""Small cases with every decision worked out, and the judge of another tool's answers to them.

May import `sim.results` and below.
Start with `judge.py`.
"""
