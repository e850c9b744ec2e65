"""What each lockstep batch contributes to every metric: the units of resampling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.engine.decision.counters import COUNTERS
from sim.machine.parts import PARTS
from sim.metrics.drafts import DRAFT_COLUMNS
from sim.metrics.registry import GATE_MASSES

Columns = dict[str, NDArray[Any]]
TIMES = ("latency_ns", *(f"{part}_ns" for part in PARTS))


class BlockSums:
    """Adds up steps by lockstep batch and phase as they come.

    Requests that decode in lockstep share their steps: the batch is what can be drawn independently, a *block*.
    """

    def __init__(self, num_layers: int, slots: float, sequential: bool = False) -> None:
        self.num_layers, self.slots, self.sequential = num_layers, slots, sequential
        self.timed = self.knows_gate_mass = False
        self.drafts: list[str] = []
        self.kept: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def write(self, steps: Columns) -> None:
        """Take in a piece of the per-step table."""
        self.timed, self.knows_gate_mass = "latency_ns" in steps, "lost_gate_mass" in steps
        self.drafts = [name for name in DRAFT_COLUMNS if name in steps]
        keys = np.asarray(steps["group"], np.int64) * 2 + np.asarray(steps["phase"], np.int64)
        names, places = np.unique(keys, return_inverse=True)
        columns = [np.bincount(places, column, len(names)) for column in self._amounts(steps)]
        self.kept.append((names, np.stack(columns, axis=1)))

    def _amounts(self, steps: Columns) -> list[NDArray[np.float64]]:
        tokens = np.asarray(steps["num_tokens"], np.float64)
        layer_steps = np.full(len(tokens), float(self.num_layers))
        if self.sequential:  # each access is one
            layer_steps = np.asarray(steps["routed_ranks"], np.float64)
        amounts = [np.ones(len(tokens)), tokens, layer_steps, layer_steps * self.slots]
        amounts += [np.asarray(steps[name], np.float64) for name in COUNTERS]
        if self.timed:
            times = [np.asarray(steps[name], np.float64) for name in TIMES]
            members = np.asarray(steps.get("num_requests", tokens), np.float64)
            amounts += times + [time * members for time in times]
        amounts += [np.asarray(steps[name], np.float64) for name in self.drafts]
        if self.knows_gate_mass:
            amounts += [np.nan_to_num(np.asarray(steps[name], np.float64)) * tokens for name in GATE_MASSES]
        return amounts

    def names(self) -> list[str]:
        """Names of the amounts, in order."""
        names = ["steps", "num_tokens", "layer_steps", "slot_steps", *COUNTERS]
        names += [*TIMES, *(f"token_{name}" for name in TIMES)] if self.timed else []
        names += self.drafts
        return names + ([f"{name}_tokens" for name in GATE_MASSES] if self.knows_gate_mass else [])

    def columns(self) -> Columns:
        """One row per (block, phase): `group`, `phase`, and sums over the block's steps.

        `layer_steps`: steps times MoE layers, or single accesses where they are looked up one at a time; `slot_steps`:
        that times the slots of a layer; `token_*_ns`: times multiplied by the requests that decode in their step;
        `*_gate_mass_tokens`: share of gate mass times tokens. Every sum of whole numbers is exact.
        """
        names = np.unique(np.concatenate([keys for keys, _ in self.kept])) if self.kept else np.empty(0, np.int64)
        sums = np.zeros((len(names), len(self.names())))
        for keys, amounts in self.kept:
            sums[np.searchsorted(names, keys)] += amounts
        keys_of_rows: Columns = {"group": names // 2, "phase": (names % 2).astype(np.int64)}
        return keys_of_rows | {name: np.ascontiguousarray(sums[:, i]) for i, name in enumerate(self.names())}
