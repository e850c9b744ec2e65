"""moe-cache-lab's routing-jsonl, version 1: a line of metadata, then one per (token, layer).

Source: https://github.com/mfethe1/warp (tools/moe-cache-lab)
"""

import argparse
from pathlib import Path

from traces.format.trace import Trace
from traces.importers.table import Preset, add_table_options, read_table

EXAMPLE = "moe_cache_lab routing.jsonl out.safetensors"
PRESET = Preset(
    "moe_cache_lab",
    {
        "phase": "phase",
        "token": "token_position",
        "token_id": "token_id",
        "layer": "layer",
        "experts": "selected_experts",
        "weights": "selected_probabilities",
    },
    others=(),
    must={"record_type": "routing_selection"},
    metadata={"format": "moe-cache-lab.routing-jsonl", "format_version": 1},
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the format does not say."""
    add_table_options(parser)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    return read_table(source, options, PRESET)
