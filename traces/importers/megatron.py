"""Megatron's RouterTracer: JSON lines with the top_indices of a step's tokens.

A line is one layer of one forward step. A step over several tokens is a prompt's. Each rank is a request of its own:
ranks of tensor parallelism, which route the same tokens, must be filtered first.
"""

import argparse
from pathlib import Path

from traces.format.trace import Trace
from traces.importers.table import Preset, add_table_options, read_table

EXAMPLE = "megatron routing.jsonl out.safetensors --num-experts 64"
PRESET = Preset(
    "megatron",
    {"step": "step", "request": "rank", "layer": "layer", "experts": "top_indices"},
    only={"stage": "pre_dispatch"},
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the format does not say."""
    add_table_options(parser)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    return read_table(source, options, PRESET)
