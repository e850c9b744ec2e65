"""Studies that the README and docs/results quote: each sets figures of papers beside those of the simulator.

`quality`: substitution inside a model; `smoe`: its ablation; `systems`: OD-MoE, Expert Streaming, MoE-Beyond and all of
them side by side; `reproduce` runs those that need no trained model.
"""
