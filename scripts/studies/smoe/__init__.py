"""SMoE taken apart: `replays` makes them, `claims` sets them beside the paper, `ablation` prints the tables."""
