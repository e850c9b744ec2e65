"""Times of a step by part: the time between two stamps is booked to one part, so the parts sum to the whole."""

from __future__ import annotations

from typing import Any

from sim.execution.backend import Backend
from sim.machine.parts import PARTS


class StepClock:
    """Stamps of one step. On a GPU they are events on its stream, read when the step has ended.

    Launches are not told apart: a GPU that idles until something is launched books that to what is launched.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.stamps: list[Any] = []
        self.parts: list[int] = []
        self.layer_ends: list[int] = []

    def start(self) -> None:
        """Begin a step."""
        self.stamps, self.parts, self.layer_ends = [self.backend.stamp()], [], []

    def mark(self, part: int) -> None:
        """Book the time since the last stamp to a part."""
        self.stamps.append(self.backend.stamp())
        self.parts.append(part)

    def end_layer(self) -> None:
        """What was booked since the last call belongs to one layer."""
        self.layer_ends.append(len(self.parts))

    def finish(self) -> tuple[list[int], list[int]]:
        """(ns of each part, ns of each layer) of the step; what follows the last layer belongs to no layer."""
        elapsed = self.backend.elapsed_ns(self.stamps)
        totals = [0] * len(PARTS)
        for part, spent_ns in zip(self.parts, elapsed, strict=True):
            totals[part] += spent_ns
        begins = [0, *self.layer_ends]
        layers = [sum(elapsed[begin:end]) for begin, end in zip(begins, self.layer_ends, strict=False)]
        return totals, layers
