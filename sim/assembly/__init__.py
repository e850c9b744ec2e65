"""One replay put together from configuration or from objects, and checked: nothing runs yet.

May import `sim.engine` and below.
Start with `build.py` (from configuration), `replay.py` (from objects).
"""
