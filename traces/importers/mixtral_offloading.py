"""Mixtral-8x7B routing: active_experts.txt, one line of expert ids per MoE layer call, 32 lines per token.

The first 32 lines are the prefill, the union over a prompt of unknown length. Ids are sorted and have no weights, so
the trace is not ranked. The prefill becomes rows of two experts each whose union is exactly the recorded set; their
number stands in for the unknown number of prompt tokens, and prompt_len follows it.
Source: https://github.com/h39s/mlsys (MIT)
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL, Geometry, Trace
from traces.importers._sources import integer, numbered_lines, require, sha256_of

EXAMPLE = "mixtral_offloading active_experts.txt mixtral.safetensors"
NUM_LAYERS, NUM_EXPERTS, TOP_K = 32, 8, 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """This format needs no options."""


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The one request in file `source`."""
    prompt, decoded = _read_lines(require(source, "file"))
    prefill = _rows_of_union(prompt)
    tokens = np.array(decoded, np.uint8).reshape(-1, NUM_LAYERS, TOP_K)
    return Trace(
        geometry=Geometry("mixtral_8x7b", NUM_LAYERS, NUM_EXPERTS, TOP_K),
        topk_ids=np.concatenate([prefill, tokens]),
        request_offsets=np.array([0, len(prefill) + len(tokens)], np.int64),
        prompt_len=np.array([len(prefill)], np.int32),
        phase=np.repeat(np.array([PREFILL, DECODE], np.uint8), [len(prefill), len(tokens)]),
        ranked=False,
        provenance={
            "imported_from": "mixtral_offloading",
            "source": "https://github.com/h39s/mlsys",
            "sha256": {source.name: sha256_of(source)},
            "notes": [
                f"The prompt's length is unknown: {len(prefill)} prefill rows stand in for it; the set of experts "
                "of every layer in the prefill is exact, token counts and their order are not.",
                "Experts of a row are in rising order of their number, without weights.",
            ],
        },
    )


def _read_lines(source: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Experts of each layer of the prompt, and of each layer of each decoded token, one list per line."""
    prompt: list[list[int]] = []
    decoded: list[list[int]] = []
    for number, line in numbered_lines(source):
        experts = [integer(text, source, number, "expert") for text in line.split(",")]
        if len(set(experts)) != len(experts) or max(experts) >= NUM_EXPERTS:
            raise UserError(f"{source.name} line {number}: {line!r} must be different experts from 0 to 7")
        if len(prompt) < NUM_LAYERS:
            if len(experts) < TOP_K:
                raise UserError(f"{source.name} line {number} has one expert; a prompt uses at least {TOP_K}")
            prompt.append(experts)
        elif len(experts) != TOP_K:
            raise UserError(f"{source.name} line {number} has {len(experts)} experts; a decoded token uses {TOP_K}")
        else:
            decoded.append(experts)
    if len(prompt) < NUM_LAYERS or len(decoded) % NUM_LAYERS:
        lines = len(prompt) + len(decoded)
        raise UserError(
            f"{source.name} has {lines} lines, which is not a whole number of tokens of {NUM_LAYERS} layers"
        )
    return prompt, decoded


def _rows_of_union(prompt: list[list[int]]) -> NDArray[np.uint8]:
    """Rows of TOP_K experts whose union in each layer is that layer's set, [rows, L, TOP_K]."""
    count = max(-(-len(experts) // TOP_K) for experts in prompt)
    rows = np.empty((count, NUM_LAYERS, TOP_K), np.uint8)
    for layer, experts in enumerate(prompt):
        for row in range(count):
            # The last row is aligned with the end of the set, and repeated where other layers have more experts.
            first = min(row * TOP_K, len(experts) - TOP_K)
            rows[row, layer] = experts[first : first + TOP_K]
    return rows
