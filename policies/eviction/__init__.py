"""Which resident expert makes room: one rule per file."""
