"""Lattice-style JSON lines: layer_idx, token_idx, selected_ids, gate_weights.

A line is one token in one layer. The file says neither where the prompt ends nor how many experts there are.
"""

import argparse
from pathlib import Path

from traces.format.trace import Trace
from traces.importers.table import Preset, add_table_options, read_table

EXAMPLE = "lattice routing.jsonl out.safetensors --num-experts 64 --prompt-len 57"
PRESET = Preset(
    "lattice",
    {"token": "token_idx", "layer": "layer_idx", "experts": "selected_ids", "weights": "gate_weights"},
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the format does not say."""
    add_table_options(parser)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    return read_table(source, options, PRESET)
