"""A trace as a table of routing that other tools read, and `python -m sim import table` reads back.

May import traces.format and errors. Start at `table.write_routing`.
"""
