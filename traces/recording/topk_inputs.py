"""Sees by which scores a router chose: the input of the `topk` call whose result became the expert ids.

Routers with a correction bias or expert groups choose by other numbers than their logits, and return only the logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _CaptureTopk(TorchFunctionMode):
    """Keeps (input, indices) of every `topk` called while the mode is on; calls it unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in (torch.topk, torch.Tensor.topk):
            scores = args[0] if args else kwargs["input"]
            self.calls.append((scores, result[1]))
        return result


class TopkInputs:
    """Pair of hooks that switch the capture on around the module in which ids are chosen."""

    def __init__(self) -> None:
        self._mode: _CaptureTopk | None = None
        self._calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def start(self, _module: Any, _args: Any) -> None:
        """Forward pre-hook."""
        self._mode = _CaptureTopk()
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def stop(self, _module: Any, _args: Any, _output: Any) -> None:
        """Forward hook, called also when the router raised."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._calls, self._mode = self._mode.calls, None

    def that_chose(self, ids: torch.Tensor) -> torch.Tensor | None:
        """Scores [T, E] whose top-k indices are `ids` [T, K], None if no `topk` gave them; known while it runs."""
        for scores, indices in reversed(self._calls if self._mode is None else self._mode.calls):
            if indices.numel() == ids.numel() and torch.equal(indices.reshape(ids.shape), ids):
                return scores.reshape(-1, scores.shape[-1]).clone()
        return None
