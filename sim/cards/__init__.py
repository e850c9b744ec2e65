"""Trace cards: what the routing of a model is like, in numbers; and traces drawn from them. SYNTHETIC.

May import `traces` and the modules beside the packages of `sim`. Start with `card.py` for what a card holds,
`routing.py` for how routing is drawn; `make.py` writes a card, `synthesis.py` draws a trace.
"""
