"""Co-simulation: the model runs step by step through its KV cache while the engine's clock runs beside it.

The clock decides what is resident when a layer looks up its experts: a prefetch that is still on the link is a miss.
Times and quality come from the same run. Rows that do not depend on each other (windows, variants, choices of a cloze
item) run side by side in one forward pass, each with a modelled device of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE
from sim.engine.interface import StepResults
from sim.live.router_output import Routed, StepArrays
from sim.live.weights import replacement
from sim.quality.drive import begin_step, end_step, time_layer
from sim.quality.loop import Loop, Variant, step_bounds
from sim.quality.parallel import Pass
from traces.recording.tap import Routing, Tap

if TYPE_CHECKING:
    import torch

    from sim.quality.modelled_device import ModelledDevice


class Row:
    """One of the passes that run side by side: its device, what it does, and what it gave so far."""

    def __init__(self, loop: Loop, device: ModelledDevice, variant: Variant, window: int) -> None:
        self.loop, self.device, self.variant, self.window = loop, device, variant, window
        self.steps: list[StepResults] = []
        self.executed: list[NDArray[np.int32]] = []
        self.arrays: list[StepArrays] = []

    def begin(self, arrays: StepArrays, executed: NDArray[np.int32], phase: int) -> None:
        """Begin a step over arrays that the caller fills; ``executed`` [tokens, L, K] is what it executes."""
        live = self.device
        self.arrays.append(arrays)
        self.executed.append(executed)
        self.before = live.device.counts.copy(), live.device.lost.copy(), live.clock.get("now_ns")
        state, machine, _ = live.addresses
        begin_step(state, machine, live.clock.address, phase, self.window, *arrays.all())

    def end(self) -> None:
        """Close the step and keep its times and counts."""
        live, (counts, lost, begin_ns) = self.device, self.before
        end_step(*live.addresses, live.clock.address)
        latency_ns = np.array([live.clock.get("now_ns") - begin_ns], np.int64)
        parts_ns = live.clock.arrays["parts"].copy()[None]
        self.steps.append(
            StepResults(latency_ns, parts_ns, (live.device.counts - counts)[None], (live.device.lost - lost)[None])
        )

    def time(self, layer: int, kv_tokens: int, pairs: int, executed: NDArray[np.int32]) -> None:
        """One layer on the clock -> ``executed`` [tokens, K]."""
        live = self.device
        time_layer(*live.addresses, live.clock.address, layer, kv_tokens, pairs, self.variant.stand_in, executed)

    def branch(self, device: ModelledDevice) -> Row:
        """A row that goes on from here on another device."""
        device.restore(self.device.save())
        row = Row(self.loop, device, self.variant, self.window)
        row.steps, row.executed, row.arrays = [*self.steps], [*self.executed], [*self.arrays]
        return row

    def timing(self) -> StepResults:
        """Times and counts of the steps so far."""
        return StepResults.joined(self.steps)


class CoSimulation:
    """Steps a model and one device per row together; a context manager: the model is hooked inside it.

    ``members``: sequences of each row, which decode in lockstep on its device. ``devices``: of the rows, where they are
    not all like the loop's own; of the same policy and model all the same.
    """

    def __init__(
        self,
        loop: Loop,
        variants: Sequence[Variant],
        windows: Sequence[int] | None = None,
        members: int = 1,
        devices: Sequence[ModelledDevice] | None = None,
    ) -> None:
        self.loop, self.past, self.context, self.members = loop, None, 0, members
        numbers = [0] * len(variants) if windows is None else windows
        devices = loop.devices(len(variants)) if devices is None else devices
        self.rows = [Row(loop, *each) for each in zip(devices, variants, numbers, strict=True)]
        self.after = loop.reads.lookahead == "lookahead_after"
        self.tap = Tap(
            loop.model,
            self._on_route,
            on_layer_end=self._on_layer_end if self.after else None,
            lookahead=loop.reads.lookahead == "lookahead_before",
            layers=loop.layers,
        )
        if loop.resets:
            for device in devices:
                device.reset()

    def __enter__(self) -> CoSimulation:
        self.tap.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.tap.__exit__(*error)

    def step(self, tokens: NDArray[np.int64], phase: int = DECODE) -> torch.Tensor:
        """One forward pass over the next tokens [N, B] of every sequence, row by row -> logits [N, B, V]."""
        import torch

        self.count = tokens.shape[1] * self.members
        first, self.context = self.context, self.context + tokens.shape[1]
        self.kv_tokens = self.members * self.context
        self.pairs = self.members * sum(range(first + 1, self.context + 1))
        spec, tokens_in_all = self.loop.spec, tokens.size
        self.arrays = StepArrays(tokens_in_all, spec, self.loop.reads)
        self.executed = np.zeros((tokens_in_all, spec.num_layers, spec.top_k), np.int32)
        for number, row in enumerate(self.rows):
            part = self._part(number)
            row.begin(self.arrays.part(part), self.executed[part], phase)
        inputs = torch.from_numpy(tokens).to(self.loop.torch_device)
        with torch.no_grad():
            output: Any = self.loop.model(input_ids=inputs, past_key_values=self.past, use_cache=True)
        self.past = output.past_key_values
        for row in self.rows:
            row.end()
        logits: torch.Tensor = output.logits
        return logits

    def branch(self, ways: int) -> None:
        """Go on with every row in so many ways, which stand next to each other; nothing is computed again."""
        devices = self.loop.devices(ways * len(self.rows))
        others = iter(devices[len(self.rows) :])
        self.rows = [each for row in self.rows for each in (row, *(row.branch(next(others)) for _ in range(ways - 1)))]
        past: Any = self.past
        past.batch_repeat_interleave(ways)

    def _part(self, number: int) -> slice:
        """Which tokens of a forward pass belong to a row."""
        return slice(number * self.count, (number + 1) * self.count)

    def _on_route(self, routing: Routing) -> tuple[torch.Tensor, torch.Tensor] | None:
        layer, routed = routing.layer, Routed.of(routing, self.loop.reads)
        executed = np.zeros(routed.ids.shape, np.int32)
        waits = self.after and layer + 1 < len(self.loop.layers)
        self.arrays.fill(routed)
        for number, row in enumerate(self.rows):
            part = self._part(number)
            saved = row.device.save() if waits else None
            row.time(layer, self.kv_tokens, self.pairs, executed[part])
            if saved is not None:  # the layer is timed again when its end shows what the prediction reads
                row.device.restore(saved)
        self.executed[:, layer] = executed
        for number, row in enumerate(self.rows):
            if row.variant.layer not in (None, layer):
                executed[self._part(number)] = routed.ids[self._part(number)]
        return self._replacement(routing, routed, executed)

    def _replacement(
        self, routing: Routing, routed: Routed, executed: NDArray[np.int32]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What the rows execute, each with weights by its own scheme; None where that is what was routed."""
        import torch

        schemes = list(dict.fromkeys(row.variant.scheme for row in self.rows))
        found = {scheme: replacement(self.loop.gate, routing, routed, executed, scheme) for scheme in schemes}
        first = found[schemes[0]]
        if first is None or len(schemes) == 1:
            return first
        chosen, weights = first
        for scheme in schemes[1:]:
            other = found[scheme]
            assert other is not None
            uses = np.repeat([row.variant.scheme == scheme for row in self.rows], self.count)
            weights = torch.where(torch.from_numpy(uses).to(weights.device)[:, None], other[1], weights)
        return chosen, weights

    def _on_layer_end(self, layer: int, logits: torch.Tensor) -> None:
        self.arrays.fill_ahead(layer, logits)
        for row in self.rows:
            row.time(layer, self.kv_tokens, self.pairs, np.zeros_like(row.executed[-1][:, layer]))


def decode_rows(
    loop: Loop,
    rows: NDArray[np.int64],
    variants: Sequence[Variant],
    windows: Sequence[int],
    take: Callable[[int, torch.Tensor], None],
) -> CoSimulation:
    """Feed rows [N, S] step by step, side by side, ``loop.step_tokens`` positions each, with the clock in the loop.

    ``take`` gets every position and its logits [N, V], which are not kept.
    """
    with CoSimulation(loop, variants, windows) as run:
        for start, stop in pairwise(step_bounds(rows.shape[1], loop.step_tokens).tolist()):
            logits = run.step(rows[:, start:stop])
            for position in range(start, stop):
                take(position, logits[:, position - start])
    return run


def decode(loop: Loop, window: NDArray[np.int64], variant: Variant, number: int = 0) -> Pass:
    """Feed one window [S] step by step, every step a decode step, with the clock in the loop."""
    import torch

    logits: list[torch.Tensor] = []
    run = decode_rows(loop, window[None], [variant], [number], lambda _, each: logits.append(each[0]))
    (row,) = run.rows
    return Pass(torch.stack(logits), np.concatenate(row.executed), StepArrays.joined(row.arrays), row.timing())
