"""The demo model that comes with the package, so that it needs no training and everybody measures the same one.

Weights of the recipe `demo`, training seed 0, rounded to bfloat16: half the bytes. They were trained on the standard
library of the Python that `training.json` names, with revision 1 of the training code, which rounds sums in another
order than today's. A model trained anew (`model.train=true`) keeps its float32 weights, and another Python's library
makes another one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.demo.recipe import RECIPES, Recipe
from traces.errors import UserError
from traces.whole_file import make_folder, write_whole

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).resolve().parent / "shipped"
RECIPE = RECIPES["demo"]
SUMMARY, WEIGHTS = "training.json", "model.safetensors"
ROUNDING = "weights rounded to bfloat16 after training, computed with in float32"


def is_shipped(recipe: Recipe) -> bool:
    """Whether the package holds the model of a recipe, every number of it."""
    return asdict(recipe) == asdict(RECIPE) and (FOLDER / WEIGHTS).is_file()


def shipped_model() -> Path:
    """Folder of the model of the package. Raises: UserError where its weights are not those that were shipped."""
    summary = json.loads((FOLDER / SUMMARY).read_text(encoding="utf-8"))
    if hashlib.sha256((FOLDER / WEIGHTS).read_bytes()).hexdigest() != summary["weights_sha256"]:
        raise UserError(f"{FOLDER / WEIGHTS} was changed after it was shipped: install the package again")
    return FOLDER


def write_shipped(trained: Path, folder: Path = FOLDER) -> dict[str, Any]:
    """Round the model of a finished training to bfloat16 and write it as the package's -> its summary."""
    import platform

    import torch
    import transformers
    from safetensors.torch import load_file, save

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.bfloat16).contiguous()

    weights = {name: rounded(tensor) for name, tensor in sorted(load_file(trained / WEIGHTS).items())}
    content = save(weights, metadata={"format": "pt"})
    make_folder(folder)
    write_whole(folder / WEIGHTS, content)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        write_whole(folder / name, (trained / name).read_bytes())
    summary: dict[str, Any] = json.loads((trained / SUMMARY).read_text(encoding="utf-8"))
    summary |= {
        "python": platform.python_version(),
        "transformers": transformers.__version__,
        "rounding": ROUNDING,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    write_whole(folder / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())
    return summary
