"""Tries recording on tiny random models of every MoE type of the installed transformers, against a perturbed truth.

Start at `table` (the command), then `tiny` (the models), `truth` (which experts a token really uses).
"""
