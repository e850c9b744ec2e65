"""ExpertFlow's router events, schema 1.0.0: JSON lines, one per (token, layer).

The turns of a conversation become one request, without what a later turn repeats."""

import argparse
from pathlib import Path

from traces.format.trace import Trace
from traces.importers.table import Preset, add_table_options, read_table

EXAMPLE = "expertflow events.jsonl out.safetensors --num-experts 64"
PRESET = Preset(
    "expertflow",
    {
        "request": "request_id",
        "dialogue": "conversation_id",
        "turn": "turn_index",
        "phase": "phase",
        "step": "forward_id",
        "token": "token_index",
        "token_id": "token_id",
        "layer": "layer_id",
        "experts": "selected_expert_ids",
        "weights": "selected_expert_weights",
    },
    must={"schema_version": "1.0.0"},
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the format does not say."""
    add_table_options(parser)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    return read_table(source, options, PRESET)
