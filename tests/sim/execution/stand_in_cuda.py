"""Stand-ins for torch.cuda on memory of the host: they show that the CUDA back end's calls fit together, no more."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch


class Event:
    """Remembers when it was recorded."""

    def __init__(self, **_: Any) -> None:
        self.at_ns = 0

    def record(self, _stream: Any = None) -> None:
        self.at_ns = time.perf_counter_ns()

    def synchronize(self) -> None:
        """It has happened."""

    def elapsed_time(self, later: Event) -> float:
        return (later.at_ns - self.at_ns) / 1e6


class Stream:
    """Notes in ``waits`` which events it was told to wait for."""

    waits: list[Event]

    def __init__(self, *_: Any) -> None:
        self.waits = []

    def wait_event(self, event: Event) -> None:
        self.waits.append(event)

    def synchronize(self) -> None:
        """Nothing is ever under way."""


def without_pinning(function: Any) -> Any:
    def made(*args: Any, pin_memory: bool = False, **knobs: Any) -> Any:
        return function(*args, **knobs)

    return made


def install(monkeypatch: Any) -> None:
    """Let torch believe that there is a CUDA device, whose memory is the host's."""
    device = torch.device

    def chosen(name: Any, *rest: Any) -> Any:
        return device("cpu") if name == "cuda" else device(name, *rest)

    monkeypatch.setattr(torch, "device", chosen)
    for name in ("empty", "zeros"):
        monkeypatch.setattr(torch, name, without_pinning(getattr(torch, name)))
    for name, value in {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "current_stream": lambda *_: Stream(),
        "synchronize": lambda *_: None,
        "stream": lambda _: contextlib.nullcontext(),
        "Stream": Stream,
        "Event": Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
