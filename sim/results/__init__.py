"""What runs leave behind: files of one run, written whole or not at all, and tables of many.

May import `sim.statistics` and below.
Start with `outputs.py` to write, `table.py` to read.
"""
