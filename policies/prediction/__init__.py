"""Which experts later layers will want: one rule per file."""
