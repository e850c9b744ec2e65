"""SMoE, MoE-Beyond, OD-MoE and Expert Streaming on the requests, sizes and parts of one run, a row each."""
