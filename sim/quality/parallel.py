"""Teacher-forced windows in one forward pass, the policy active in every layer as it is reached.

Layer l's decision at step t needs layer l's routing of the tokens up to it, which one pass gives for all tokens at
once; it needs nothing else where each layer has a cache of its own and no rule looks beyond its layer
(``sim.quality.conditions``). Then the decisions are those of token-by-token decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE, DROPPED
from sim.engine.decision.counters import N_DROPPED_RANKS, N_SUBSTITUTED_RANKS
from sim.engine.interface import StepResults
from sim.live.router_output import NO_AHEAD, NO_TIMES, Routed, StepArrays
from sim.live.weights import replacement
from sim.quality.drive import AS_POLICY, layer_over_steps
from sim.quality.loop import Loop, Variant, step_bounds
from traces.recording.tap import Routing, Tap

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Pass:
    """What S tokens of one window gave: logits [S, V], executed experts [S, L, K], the router output that the policy
    saw, and what it costs on the clock (None where layers or stand-ins make that another policy's)."""

    logits: torch.Tensor
    executed: NDArray[np.int32]
    arrays: StepArrays
    timing: StepResults | None


def plain_logits(model: torch.nn.Module, windows: NDArray[np.int64]) -> torch.Tensor:
    """Logits [N, S, V] of the untouched model."""
    import torch

    batch = torch.from_numpy(windows).to(next(model.parameters()).device)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=batch, use_cache=False).logits
    return logits


class ParallelPass:
    """Decides one layer of all windows of a batch when the forward pass reaches it."""

    def __init__(self, loop: Loop, variant: Variant, first_window: int, shape: tuple[int, int], cut: int = 0) -> None:
        self.loop, self.variant, self.first_window, self.tokens = loop, variant, first_window, shape[1]
        self.bounds = step_bounds(shape[1], loop.step_tokens, cut)
        spec = loop.spec
        self.arrays = [StepArrays(shape[1], spec, loop.reads) for _ in range(shape[0])]
        self.executed = np.zeros((shape[0], shape[1], spec.num_layers, spec.top_k), np.int32)

    def __call__(self, routing: Routing) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Decide a layer (see ``traces.recording.tap.Tap``)."""
        if self.variant.layer not in (None, routing.layer):
            return None
        loop, layer, routed = self.loop, routing.layer, Routed.of(routing, self.loop.reads)
        executed = np.zeros(routed.ids.shape, np.int32)
        for window, arrays in enumerate(self.arrays):
            rows = slice(window * self.tokens, (window + 1) * self.tokens)
            arrays.fill(routed, rows)
            if loop.resets:
                loop.live.reset()
            number, steps = self.first_window + window, len(self.bounds) - 1
            layer_over_steps(
                *loop.live.addresses, layer, 0 if loop.resets else number * steps, number, self.variant.stand_in,
                self.bounds, arrays.ids, arrays.weights, arrays.scores, NO_AHEAD, NO_TIMES, executed[rows],
            )  # fmt: skip
            self.executed[window, :, layer] = executed[rows]
        return replacement(loop.gate, routing, routed, executed, self.variant.scheme)

    def timing(self, window: int) -> StepResults | None:
        """Times of the policy's decisions, replayed on the clock; None for stand-ins and for single layers."""
        if self.variant.stand_in != AS_POLICY or self.variant.layer is not None:
            return None
        if self.loop.resets:
            self.loop.clock.reset()
        timing = self.loop.clock.replay(self.arrays[window].all(), DECODE, self.first_window + window, self.bounds)
        self._compare(window, timing)
        return timing

    def _compare(self, window: int, timing: StepResults) -> None:
        """Raises: RuntimeError where the replay on the clock decided differently from the pass."""
        ids, executed = self.arrays[window].ids, self.executed[window]
        dropped = executed == DROPPED
        pairs = ((N_SUBSTITUTED_RANKS, (executed != ids) & ~dropped), (N_DROPPED_RANKS, dropped))
        for counter, executed_otherwise in pairs:
            per_step = np.add.reduceat(np.count_nonzero(executed_otherwise, axis=(1, 2)), self.bounds[:-1])
            if not np.array_equal(timing.counts[:, counter], per_step):
                raise RuntimeError("the replay on the clock decided otherwise than the parallel pass")


def parallel(
    loop: Loop, windows: NDArray[np.int64], variant: Variant, first_window: int = 0, cut: int = 0
) -> list[Pass]:
    """One forward pass over windows [N, S] of equal length, the policy active -> what each gave.

    ``cut``: a position that no step goes across.
    """
    import torch

    decide = ParallelPass(loop, variant, first_window, windows.shape, cut)
    batch = torch.from_numpy(windows).to(loop.torch_device)
    with torch.no_grad(), Tap(loop.model, decide, layers=loop.layers):
        logits = loop.model(input_ids=batch, use_cache=False).logits
    return [
        Pass(logits[window], decide.executed[window], decide.arrays[window], decide.timing(window))
        for window in range(len(windows))
    ]


def untouched_routing(loop: Loop, windows: NDArray[np.int64]) -> list[StepArrays]:
    """The router output of the untouched model over windows [N, S]: what an open-loop replay reads."""
    import torch

    windows_arrays = [StepArrays(windows.shape[1], loop.spec, loop.reads) for _ in windows]

    def keep(routing: Routing) -> None:
        routed = Routed.of(routing, loop.reads)
        for window, arrays in enumerate(windows_arrays):
            arrays.fill(routed, slice(window * windows.shape[1], (window + 1) * windows.shape[1]))

    def keep_ahead(layer: int, logits: torch.Tensor) -> None:
        for arrays, rows in zip(windows_arrays, logits.reshape(len(windows_arrays), windows.shape[1], -1), strict=True):
            arrays.fill_ahead(layer, rows)

    batch, ahead = torch.from_numpy(windows).to(loop.torch_device), loop.reads.lookahead
    after = keep_ahead if ahead == "lookahead_after" else None
    hooks = Tap(loop.model, keep, on_layer_end=after, lookahead=ahead == "lookahead_before", layers=loop.layers)
    with torch.no_grad(), hooks:
        loop.model(input_ids=batch, use_cache=False)
    return windows_arrays
