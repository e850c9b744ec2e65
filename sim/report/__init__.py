"""One HTML file about a folder of runs: what was run, what came out, how sure it is, how to do it again.

May import `sim.figures` and below.
Start with `content.py`.
"""
