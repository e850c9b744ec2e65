"""Which experts to execute for those routed: one rule per file."""
