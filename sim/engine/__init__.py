"""Engines: the same decisions on a SimPy clock, or on none."""
