"""Which experts a token really uses: one expert's weights are changed, and the tokens whose output changes used it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def used_experts(model: Any, names: list[str], tokens: list[int], num_experts: int) -> NDArray[np.bool_] | None:
    """Of every experts module of `names`, the experts each token uses, [T, L, E]; None where weights are not by expert.

    One pass over `tokens` keeps what enters each experts module; the module is then run on it with one expert's rows of
    every weight changed. Nothing is read of ids or of scores.
    """
    import torch

    calls = _calls(model, names, tokens)
    used = np.zeros((len(tokens), len(names), num_experts), bool)
    for layer, name in enumerate(names):
        module, (args, kwargs) = model.get_submodule(name), calls[name]
        rows = _rows_by_expert(module, num_experts)
        if rows is None:
            return None
        with torch.no_grad():
            plain = _output(module(*args, **kwargs), len(tokens))
            for expert in range(num_experts):
                kept = [row[expert].clone() for row in rows]
                for row in rows:
                    row[expert] = row[expert] * -1.7 + 0.05
                changed = _output(module(*args, **kwargs), len(tokens))
                for row, values in zip(rows, kept, strict=True):
                    row[expert] = values
                used[:, layer, expert] = ((changed - plain).abs().amax(-1) > 0).numpy()
    return used


def _calls(model: Any, names: list[str], tokens: list[int]) -> dict[str, tuple[Any, Any]]:
    import torch

    calls: dict[str, tuple[Any, Any]] = {}
    handles = []
    for name in names:

        def keep(_module: Any, args: Any, kwargs: Any, name: str = name) -> None:
            copied = tuple(value.clone() if torch.is_tensor(value) else value for value in args)
            calls[name] = (copied, {k: v.clone() if torch.is_tensor(v) else v for k, v in kwargs.items()})

        handles.append(model.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True))
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([tokens]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _rows_by_expert(module: Any, num_experts: int) -> list[Any] | None:
    """Views [E, ...] of the weights that every expert has its own rows of."""
    parameters = [parameter.data for parameter in module.parameters()]
    own = [parameter for parameter in parameters if parameter.ndim and parameter.shape[0] >= num_experts]
    folded = [
        parameter.view(num_experts, parameter.shape[0] // num_experts, *parameter.shape[1:])
        for parameter in own
        if parameter.shape[0] % num_experts == 0
    ]
    whole = [parameter for parameter in own if parameter.shape[0] % num_experts]  # further rows that have no weights
    return folded + [parameter[:num_experts] for parameter in whole] or None


def _output(output: Any, rows: int) -> Any:
    tensor = output[0] if isinstance(output, tuple) else output
    return tensor.reshape(rows, -1).float()
