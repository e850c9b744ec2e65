"""moe-policylang's Parquet: seq_id, pos, layer, rank, expert, weight and is_decode, a row per rank."""

import argparse
from pathlib import Path

from traces.format.trace import Trace
from traces.importers.table import Preset, add_table_options, read_table

EXAMPLE = "moe_policylang routing.parquet out.safetensors --num-experts 64"
PRESET = Preset(
    "moe_policylang",
    {
        "request": "seq_id",
        "token": "pos",
        "layer": "layer",
        "rank": "rank",
        "experts": "expert",
        "weights": "weight",
        "phase": "is_decode",
    },
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the format does not say."""
    add_table_options(parser)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    return read_table(source, options, PRESET)
