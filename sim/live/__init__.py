"""What a running model gives to the decision core: its router's output as arrays, and the weights of substitutes.

Used by `sim.quality` (the clock is simulated) and by `sim.execution` (memory is real). May import `sim.assembly` and
below; `traces`; torch. Start with `router_output.py`, then `weights.py`.
"""
