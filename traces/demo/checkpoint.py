"""State of an unfinished training on disk: parameters and AdamW moments as safetensors, the step in its header.

No pickle anywhere. Batches are drawn from a generator seeded by (seed, step), so the step number IS the state of the
random numbers and nothing else has to be kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from traces.format.header import check_header
from traces.whole_file import write_whole

if TYPE_CHECKING:
    import torch

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(
    path: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]
) -> None:
    """Write the state after `step` finished steps; a reader sees the old file or the new."""
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"parameter.{name}"] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    write_whole(path, save(tensors, metadata={"step": str(step), "losses": json.dumps(losses)}))


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[float]]:
    """Put a saved state into `model` and `optimizer`; returns the finished steps and the loss of each.

    Raises:
        Exception: whatever safetensors raises for a damaged file, or KeyError for a file of another model.
    """
    import torch
    from safetensors import safe_open

    check_header(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                parameter.copy_(file.get_tensor(f"parameter.{name}"))
            optimizer.state[parameter] = {moment: file.get_tensor(f"{moment}.{name}") for moment in MOMENTS}
    return int(header["step"]), json.loads(header["losses"])
