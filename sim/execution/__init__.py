"""Real runs: policies executed on this machine with the decisions that the engines replay."""
