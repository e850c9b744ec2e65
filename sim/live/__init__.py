"""What a running model gives to the decision core: its router's output as arrays, and the weights of substitutes.

Shared by `sim.quality` (the policy's clock is simulated) and `sim.execution` (the policy moves real memory). May import
`sim.engine`, `sim.workload`, `sim.assembly`, `policies` and `traces`. Start with `router_output`.
"""
