"""Single published numbers: the terms of the time model that they allow to check, and the kernel of an MoE block."""
