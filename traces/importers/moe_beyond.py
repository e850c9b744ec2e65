"""MoE-Beyond expert activations: a CSV file per prompt, or a folder of them.

The columns are Layer ID, Batch Number, Token, Activated Expert IDs. One line per (layer, token), layer after layer in
the same order of tokens; ids like "[8, 26, 56]", without weights and not best first. All rows are one prefill pass
over the prompt; each file is a request. Layers are those that are listed.
Source: https://github.com/ngavhane/moe-beyond (no licence is stated)
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import PREFILL, Geometry, Trace, id_dtype
from traces.importers._sources import add_model_options, check_num_experts, integer, numbered_lines, sha256_of

EXAMPLE = "moe_beyond activations/ moe_beyond.safetensors"
COLUMNS = ["Layer ID", "Batch Number", "Token", "Activated Expert IDs"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --num-experts and --model."""
    add_model_options(parser, "deepseek_v2_lite_chat", 64)


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in `source`, one request per file in the order of their names."""
    files = sorted(source.glob("*.csv"), key=lambda path: (len(path.name), path.name)) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise UserError(f"{source} is neither a CSV file nor a folder of CSV files")
    check_num_experts(options.num_experts)
    prompts = [_read_prompt(path, options.num_experts) for path in files]
    for path, prompt in zip(files, prompts, strict=True):
        if prompt.shape[1:] != prompts[0].shape[1:]:
            raise UserError(f"{path.name} has {prompt.shape[1:]} layers and experts per token, {files[0].name} others")
    lengths = np.array([len(prompt) for prompt in prompts])
    ids = np.concatenate(prompts)
    return Trace(
        geometry=Geometry(options.model, ids.shape[1], options.num_experts, ids.shape[2]),
        topk_ids=ids,
        request_offsets=np.cumsum([0, *lengths]).astype(np.int64),
        prompt_len=lengths.astype(np.int32),
        phase=np.full(len(ids), PREFILL, np.uint8),
        ranked=False,
        provenance={
            "imported_from": "moe_beyond",
            "source": "https://github.com/ngavhane/moe-beyond",
            "sha256": {path.name: sha256_of(path) for path in files},
            "forcing": "teacher",
            "notes": ["One prefill pass over each prompt; ids are not best first and have no weights."],
        },
    )


def _read_prompt(path: Path, num_experts: int) -> NDArray[Any]:
    """Ids of one prompt, [T, L, K]."""
    layers: dict[int, list[list[int]]] = {}
    tokens: dict[int, list[str]] = {}
    width = 0
    for number, line in numbered_lines(path):
        try:
            cells = next(csv.reader([line]), [])
        except csv.Error as error:
            raise UserError(f"{path.name} line {number} is no line of a CSV file: {error}") from error
        if number == 1:
            if cells != COLUMNS:
                raise UserError(f"{path.name} line 1: must be the columns {','.join(COLUMNS)}")
            continue
        if len(cells) != len(COLUMNS) or not (cells[3].startswith("[") and cells[3].endswith("]")):
            raise UserError(f"{path.name} line {number}: must be layer, batch, token and '[id, id, ...]'")
        experts = [integer(text.strip(), path, number, "expert") for text in cells[3][1:-1].split(",")]
        width = width or len(experts)
        if len(experts) != width or max(experts) >= num_experts:
            raise UserError(f"{path.name} line {number}: must be {width} experts from 0 to {num_experts - 1}")
        layer = integer(cells[0], path, number, "Layer ID")
        layers.setdefault(layer, []).append(experts)
        tokens.setdefault(layer, []).append(cells[2])
    if not layers:
        raise UserError(f"{path.name} has no rows")
    first = next(iter(tokens.values()))
    if odd := [layer for layer, texts in tokens.items() if texts != first]:
        raise UserError(f"{path.name}: layer {odd[0]} lists other tokens than layer {next(iter(tokens))}")
    return np.stack([np.array(layers[layer], id_dtype(num_experts)) for layer in sorted(layers)], axis=1)
