"""Simulated beside measured: what others published, and real runs of our own."""
