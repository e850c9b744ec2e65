"""What the files of a model's folder claim, checked before the model library builds anything from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traces.errors import UserError
from traces.format.header import check_header
from traces.whole_input import read_json_value

MOST_CONFIG_BYTES, MOST_TOKENIZER_BYTES = 1 << 22, 1 << 27
LAYERS = {
    "num_hidden_layers", "num_layers", "n_layers", "n_layer", "layers", "decoder_layers", "num_decoder_layers",
    "encoder_layers", "num_encoder_layers", "num_blocks", "n_blocks", "depth",
}  # fmt: skip
"""How configurations call the number of layers, which have a tensor each at least."""
MOST_LAYERS = 10_000
MOST_MODULES = 1 << 18
"""Layers times experts; the largest model of today has some 25,000."""
MOST_OF_A_SIZE = 1 << 25
"""Width, heads, words or positions; the largest of today are 10 million positions and 20 million pairs of words."""


def check_model_folder(folder: Path, label: str) -> None:
    """Raises: UserError where a file names another outside of the folder or pickled weights, or claims sizes that its
    weights do not have; ``label`` begins the sentence.
    """
    try:
        if (folder / "adapter_config.json").exists():
            raise UserError("the folder holds an adapter, which names a model elsewhere: merge it and save the whole")
        for path in sorted(folder.glob("*.json")):
            most = MOST_TOKENIZER_BYTES if path.name.startswith(("tokenizer", "vocab")) else MOST_CONFIG_BYTES
            if path.name.endswith(".index.json"):
                _check_index(folder, path)
            elif path.name != "config.json" and path.stat().st_size > most:
                raise UserError(f"{path.name} has more than {most} bytes")
        _check_names(folder)
        tensors = sum(len(check_header(path)) for path in sorted(folder.glob("*.safetensors")))
        config = read_json_value(folder / "config.json", "the configuration", MOST_CONFIG_BYTES)
        _check_sizes(config, tensors)
    except (UserError, OSError) as error:
        raise UserError(f"{label}: {error}") from error


def _check_index(folder: Path, path: Path) -> None:
    """An index may name safetensors files beside it, and nothing else."""
    index = read_json_value(path, "the index")
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict):
        raise UserError(f"{path.name} must hold weight_map, the file of every tensor")
    for name in set(map(str, files.values())):
        if Path(name).name != name or "\\" in name or name in (".", ".."):
            raise UserError(f"{path.name} names {name}, which is no file of this folder")
        if not name.endswith(".safetensors"):
            raise UserError(f"{path.name} names {name}: must be *.safetensors; pickled weights are not loaded")
        if not (folder / name).is_file():
            raise UserError(f"{path.name} names {name}, which is not in the folder")


def _check_names(folder: Path) -> None:
    """The tokenizer's settings may name files beside them only."""
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if not path.is_file():
            continue
        for key, value in _entries(read_json_value(path, "the settings", MOST_TOKENIZER_BYTES)):
            if key.endswith("_file") and isinstance(value, str) and Path(value).name != value:
                raise UserError(f"{path.name} names {key}={value}, which is no file of this folder")


def _check_sizes(config: Any, tensors: int) -> None:
    """Counts of layers, experts and all other sizes, at any depth of the configuration."""
    layers, experts = 1, 1
    for key, value in _entries(config):
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if abs(value) > MOST_OF_A_SIZE and not key.endswith("_id") and "seed" not in key:
            raise UserError(f"config.json: {key}={value}: must be at most {MOST_OF_A_SIZE}")
        if key in LAYERS and value > tensors:
            raise UserError(f"config.json: {key}={value}: the weights hold {tensors} tensors, fewer than layers")
        if "layer" in key and "size" not in key and value > MOST_LAYERS:
            raise UserError(f"config.json: {key}={value}: must be at most {MOST_LAYERS}")
        if key in LAYERS:
            layers = max(layers, value)
        elif "expert" in key:
            experts = max(experts, value)
    if layers * experts > MOST_MODULES:
        raise UserError(f"config.json: {layers} layers times {experts} experts: must be at most {MOST_MODULES}")


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every name and value at any depth; the items of a list have the list's name."""
    waiting = [(key, value)]
    while waiting:
        name, one = waiting.pop()
        if isinstance(one, dict):
            waiting += [(str(inner), item) for inner, item in one.items()]
        elif isinstance(one, list):
            waiting += [(name, item) for item in one]
        else:
            yield name, one
