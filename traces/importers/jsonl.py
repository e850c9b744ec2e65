"""Routing as JSON lines, one record per (request, token, layer).

A line is {"request": 0, "token": 0, "layer": 0, "experts": [5, 3]}. Optional fields: "weights" (or "gate_probs", one
number per expert), "phase" ("prefill" or "decode", the default), "token_id", "scores" (of all experts), "dialogue" and
"turn" (turns of one dialogue become one request); the first line may be {"metadata": {"num_experts": 64, "model": ""}}.
Requests keep the order of first appearance, tokens and layers that of their numbers; experts fewer than others have, or
ids of -1, are ranks without an expert. With weights the experts are sorted best first. Other fields are refused.
"""

import argparse
from pathlib import Path

from traces.format.trace import DECODE, Trace
from traces.importers.table import Preset, add_table_options, read_table

EXAMPLE = "jsonl routing.jsonl out.safetensors --num-experts 64"
FIELDS = ("request", "dialogue", "turn", "token", "token_id", "layer", "experts", "weights", "scores", "phase")
PRESET = Preset("jsonl", {name: name for name in FIELDS} | {"weights": "weights gate_probs"}, others=(), phase=DECODE)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the records do not say."""
    add_table_options(parser)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    return read_table(source, options, PRESET)
