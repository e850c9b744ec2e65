"""Co-simulation: the model runs token by token through its KV cache while the engine's clock runs beside it.

The clock decides what is resident when a layer looks up its experts: a prefetch that is still on the link is a miss.
Times and quality come from the same run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE
from sim.engine.interface import StepResults
from sim.live.router_output import Routed, StepArrays
from sim.live.weights import replacement
from sim.quality.drive import begin_step, end_step, time_layer
from sim.quality.loop import Loop, Variant
from sim.quality.parallel import Pass
from traces.recording.tap import Routing, Tap

if TYPE_CHECKING:
    import torch


class CoSimulation:
    """Steps a model and a device together; a context manager: the model is hooked inside it."""

    def __init__(self, loop: Loop, variant: Variant, window: int = 0) -> None:
        self.loop, self.variant, self.window = loop, variant, window
        after = loop.reads.lookahead == "lookahead_after"
        self.tap = Tap(
            loop.model,
            self._on_route,
            on_layer_end=self._on_layer_end if after else None,
            lookahead=loop.reads.lookahead == "lookahead_before",
            layers=loop.layers,
        )
        self.after, self.past, self.context = after, None, 0
        self.steps: list[StepResults] = []
        self.executed: list[NDArray[np.int32]] = []
        self.arrays: list[StepArrays] = []
        if loop.resets:
            loop.live.reset()

    def __enter__(self) -> CoSimulation:
        self.tap.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.tap.__exit__(*error)

    def step(self, tokens: NDArray[np.int64], phase: int = DECODE) -> torch.Tensor:
        """One forward pass over the next tokens [B] -> logits [B, V]."""
        import torch

        live, count = self.loop.live, len(tokens)
        arrays = StepArrays(count, self.loop.spec, self.loop.reads)
        first, self.context = self.context, self.context + count
        self.kv_tokens, self.pairs = self.context, sum(range(first + 1, self.context + 1))
        self.arrays.append(arrays)
        self.executed.append(np.zeros((count, self.loop.spec.num_layers, self.loop.spec.top_k), np.int32))
        counts, lost, begin_ns = live.device.counts.copy(), live.device.lost.copy(), live.clock.get("now_ns")
        state, machine, _ = live.addresses
        begin_step(state, machine, live.clock.address, phase, self.window, *arrays.all())
        inputs = torch.from_numpy(tokens[None]).to(self.loop.torch_device)
        with torch.no_grad():
            output: Any = self.loop.model(input_ids=inputs, past_key_values=self.past, use_cache=True)
        self.past = output.past_key_values
        end_step(*live.addresses, live.clock.address)
        latency_ns = np.array([live.clock.get("now_ns") - begin_ns], np.int64)
        parts_ns = live.clock.arrays["parts"].copy()[None]
        self.steps.append(
            StepResults(latency_ns, parts_ns, (live.device.counts - counts)[None], (live.device.lost - lost)[None])
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def timing(self) -> StepResults:
        """Times and counts of the steps so far."""
        return StepResults.joined(self.steps)

    def _on_route(self, routing: Routing) -> tuple[torch.Tensor, torch.Tensor] | None:
        routed = Routed.of(routing, self.loop.reads)
        self.arrays[-1].fill(routed)
        executed = np.zeros(routed.ids.shape, np.int32)
        waits = self.after and routing.layer + 1 < len(self.loop.layers)
        saved = self.loop.live.save() if waits else None
        self._time_layer(routing.layer, executed)
        if saved is not None:  # the layer is timed again when its end shows what the prediction reads
            self.loop.live.restore(saved)
        self.executed[-1][:, routing.layer] = executed
        if self.variant.layer not in (None, routing.layer):
            return None
        return replacement(self.loop.gate, routing, routed, executed, self.variant.scheme)

    def _on_layer_end(self, layer: int, logits: torch.Tensor) -> None:
        self.arrays[-1].fill_ahead(layer, logits)
        self._time_layer(layer, np.zeros_like(self.executed[-1][:, layer]))

    def _time_layer(self, layer: int, executed: NDArray[np.int32]) -> None:
        live = self.loop.live
        time_layer(
            *live.addresses, live.clock.address, layer, self.kv_tokens, self.pairs, self.variant.stand_in, executed
        )


def decode(loop: Loop, window: NDArray[np.int64], variant: Variant, number: int = 0) -> Pass:
    """Feed a window [S] token by token, every token a decode step, with the clock in the loop."""
    import torch

    with CoSimulation(loop, variant, number) as run:
        logits = torch.stack([run.step(window[i : i + 1])[0] for i in range(len(window))])
    return Pass(logits, np.concatenate(run.executed), StepArrays.joined(run.arrays), run.timing())
