"""Kernel times of MoE blocks on many GPUs, from the wheel of `aiconfigurator-core`, beside the time model's term."""
