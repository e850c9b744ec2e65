"""Stress and fuzz tests: corrupt files, odd configurations, faults under way, limits; `python -m scripts.torture`."""
