"""How fast a machine decodes a model, before it is bought or set up: plans, intervals, and what a part would change.

May import everything but `sim.commands`. Start with `answer.py`; a plan's seconds are those of
`sim.validation.published.corpus`, which is checked against published speeds.
"""
