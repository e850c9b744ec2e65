"""Who supplies a missing expert, link or CPU, in which order: one rule per file."""
