"""Real runs: policies executed on this machine's memory with the decisions that the engines replay.

May import `sim.run`, `sim.live` and below; torch.
Start with `run.py`, then `executor.py`.
"""
