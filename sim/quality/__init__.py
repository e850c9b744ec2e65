"""Policies inside a live forward pass: what substitution costs in quality, and what it gains in time."""
