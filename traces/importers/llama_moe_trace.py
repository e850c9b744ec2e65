"""llama.cpp's moe-trace: a CSV file of layer,expert, or of phase,token,layer,rank,expert.

The first holds forward passes layer by layer, the experts of each token best first; passes over several tokens are a
prompt's. Source: https://github.com/ggml-org/llama.cpp/pull/28544
"""

import argparse
from pathlib import Path

from traces.format.trace import Trace
from traces.importers.table import Preset, add_table_options, read_table

EXAMPLE = "llama_moe_trace routing.csv out.safetensors --num-experts 128"
PRESET = Preset(
    "llama_moe_trace",
    {"phase": "phase", "token": "token", "layer": "layer", "rank": "rank", "experts": "expert"},
    others=(),
    best_first=True,
    source="https://github.com/ggml-org/llama.cpp/pull/28544",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the format does not say."""
    add_table_options(parser)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    return read_table(source, options, PRESET)
