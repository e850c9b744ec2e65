"""What `import sim` offers: replays from Python, put together as `python -m sim run` puts them together.

May import `sim.run`, `sim.figures` and below. Start with `replays.py`.
"""
