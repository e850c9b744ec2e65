"""Many runs: a grid inside a job, the key that names a run by all that decides it, what is skipped, how a sweep ends.

May import `sim.run` and below.
Start with `jobs.py`, then `key.py`.
"""
