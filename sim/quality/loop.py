"""What every closed-loop pass shares: the hooked model, the device that decides, and the variant that it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DROPPED
from sim.engine.decision.device import DeviceSpec
from sim.live.router_output import Reads
from sim.live.weights import OWN, GateRule
from sim.quality.drive import AS_POLICY
from sim.quality.modelled_device import ModelledDevice
from traces.recording.moe_layers import MoELayer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Variant:
    """One closed-loop pass: what stands in for what the rule replaces, with which weights, in which layer (None: all).

    The cache and the rule's decisions follow the rule's own choice in every variant: variants differ only in what is
    executed in place of a replaced expert.
    """

    name: str
    stand_in: int = AS_POLICY
    scheme: str = OWN
    layer: int | None = None


@dataclass(slots=True)
class Loop:
    """A model and the devices that decide in it. ``resets``: every window finds cache and rules as at the start.

    ``live`` decides; ``clock`` replays what a parallel pass gave, for its times. ``others``: devices like them, for
    passes that run side by side. ``step_tokens``: consecutive positions of a window that one step decodes.
    """

    model: torch.nn.Module
    layers: tuple[MoELayer, ...]
    live: ModelledDevice
    clock: ModelledDevice
    gate: GateRule
    reads: Reads
    resets: bool
    step_tokens: int = 1
    others: list[ModelledDevice] = field(default_factory=list)

    def devices(self, count: int) -> list[ModelledDevice]:
        """So many devices, ``live`` first, in whatever state they were left."""
        while len(self.others) < count - 1:
            self.others.append(ModelledDevice(self.spec, self.live.durations))
        return [self.live, *self.others][:count]

    @property
    def spec(self) -> DeviceSpec:
        return self.live.spec

    @property
    def torch_device(self) -> Any:
        return next(self.model.parameters()).device


def step_bounds(tokens: int, step_tokens: int, cut: int = 0) -> NDArray[np.int64]:
    """The first position of each step of a window, and its length: of so many positions each, none across ``cut``."""
    return np.array([*range(0, cut, step_tokens), *range(cut, tokens, step_tokens), tokens], np.int64)


def changed_share(ids: NDArray[np.int32], executed: NDArray[np.int32]) -> tuple[float, float]:
    """Shares of (token, layer, rank) that execute another expert, and none."""
    dropped = executed == DROPPED
    return float(((executed != ids) & ~dropped).mean()), float(dropped.mean())
