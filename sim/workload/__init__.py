"""A trace as a stream of steps: the rows of one forward pass, their arrays block by block, the next use of experts.

May import `sim.machine` and below.
Start with `steps.py`.
"""
