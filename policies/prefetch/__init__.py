"""What to fetch early, in which order: one rule per file."""
