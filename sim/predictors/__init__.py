"""Trained predictors of expert routing: their networks, training, files, and what they forecast for a replay."""
