"""The commands: one module each, found by its name. A command reads its arguments, calls one package and prints.

May import everything.
Start with `run.py`.
"""
