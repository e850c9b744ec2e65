"""Figures: one module per figure or family, each a function of a table; `sim.figures.registry` names them all."""
