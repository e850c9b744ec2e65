"""Trained predictors of expert routing: their networks, training, files, and what they forecast for a replay.

May import `sim.machine` and below; torch only where a network runs.
Start with `forecast.py` to replay one, `training.py` to train one.
"""
