"""The compiled engine as a device that a live forward pass drives; its whole state can be saved and restored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.engine.clocks.compiled_engine import CompiledEngine
from sim.engine.clocks.recurrence import run_steps
from sim.engine.decision.cache import allocate
from sim.engine.decision.device import DeviceSpec
from sim.engine.interface import StepResults
from sim.machine.durations import Durations
from sim.workload.steps import NO_CHANGE

STEP_ARRAYS = ("ids", "weights", "scores", "lookahead", "predicted", "routed", "executed_ids")
"""Arrays of the state that mean nothing between two layer steps."""


class ModelledDevice:
    """One modelled device whose rules decide over a model that really runs."""

    def __init__(self, spec: DeviceSpec, durations: Durations) -> None:
        self.spec, self.durations = spec, durations
        self.engine = CompiledEngine(spec, durations, resets=False, timeline=False)
        self.device, self.clock = self.engine.device, self.engine.clock
        self._arrays, structs = self._changing(), (self.device.state, self.device.cache, self.clock)
        self._numbers = [(struct.memory, struct.number_words()) for struct in structs]
        self.start = self.save()

    def _changing(self) -> list[NDArray[Any]]:
        """All arrays that decisions or the clock change; numbers of the structs change too, their addresses never."""
        device, spec = self.device, self.spec
        names = set(allocate(spec.num_layers, spec.num_experts, spec.pools.capacity.size)) | {"used"}
        arrays = [array for name, array in device.cache_arrays.items() if name in names and array.size]
        arrays += [array for name, array in device.arrays.items() if name not in STEP_ARRAYS]
        arrays += [memory for memory in device.memories.values() if memory.size]
        return [*arrays, self.clock.arrays["arrived_at"], self.clock.arrays["parts"]]

    def save(self) -> list[NDArray[Any]]:
        """The whole state, which every device of the same specification can take over."""
        numbers = [memory[words] for memory, words in self._numbers]
        return [*(array.copy() for array in self._arrays), *numbers]

    def restore(self, saved: list[NDArray[Any]]) -> None:
        """Return to a saved state."""
        arrays, numbers = saved[: len(self._arrays)], saved[len(self._arrays) :]
        for array, values in zip(self._arrays, arrays, strict=True):
            array[...] = values
        for (memory, words), values in zip(self._numbers, numbers, strict=True):
            memory[words] = values

    def reset(self) -> None:
        """Return to the state at the start."""
        self.restore(self.start)

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Of state, cache and rules."""
        return self.device.structs

    def replay(
        self, arrays: tuple[NDArray[Any], ...], phase: int, group: int, bounds: NDArray[np.int64] | None = None
    ) -> StepResults:
        """Replay S steps of recorded tokens of one request on the clock, their context growing from nothing on.

        ``bounds`` [S + 1]: the tokens of each step; None: one each.
        """
        bounds = np.arange(arrays[0].shape[0] + 1) if bounds is None else bounds
        steps, context = len(bounds) - 1, bounds[1:].copy()
        results, pairs = StepResults.zeros(steps), np.diff(context * (context + 1) // 2, prepend=0)
        run_steps(
            *self.addresses, self.clock.address, False, 0, steps, self.engine.totals,
            bounds, np.full(steps, phase, np.uint8), np.full(steps, group), context, pairs,
            np.zeros(steps, np.int64), NO_CHANGE, np.ones(steps, np.int64), np.zeros(steps, np.int64), *arrays,
            results.latency_ns, results.parts_ns, results.counts, results.lost,
        )  # fmt: skip
        return results
