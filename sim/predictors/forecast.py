"""What a trained predictor says of the rows of a trace, chunk by chunk, with nothing of the future in it.

A chunk of a request continues from the state that the chunk before left behind. Rows computed one at a time, as a
runtime would, and rows computed in bulk agree to 1e-5 of a probability: only the order of sums differs.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Prediction
from policies.prediction.trained import TrainedPrediction
from sim.predictors.checkpoint import HOW, Checkpoint, checkpoint_of, require_trained
from sim.predictors.inputs import RowSource, Shape
from sim.predictors.split import refuse_learned
from traces.errors import UserError
from traces.format.trace import Trace

if TYPE_CHECKING:
    from sim.predictors.networks import Network

MAX_CACHED_BYTES = 64_000_000
"""Forecasts that are kept for rows to come; more only where one read spans more requests."""


class Forecaster:
    """Forecasts of one trained network over the rows of one trace."""

    def __init__(self, network: Network, source: RowSource, depth: int, chunk_rows: int | None = None) -> None:
        """``depth``: how many layers ahead ``read`` reaches; ``chunk_rows``: rows computed at a time."""
        self.network, self.source, self.depth = network.eval(), source, depth
        self.chunk_rows = chunk_rows or network.chunk_rows
        self.origin: dict[str, Any] = {}
        self.chunks: OrderedDict[tuple[int, int], NDArray[np.float32]] = OrderedDict()
        self.carried: OrderedDict[int, tuple[int, Any]] = OrderedDict()

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, L, D, E] probability that row b will use expert e in layer l + d + 1, as known at layer l.

        Layers past the last have zeros, and so have those that the predictor does not reach.
        """
        found = self.by_target(rows)  # [B, A, L, E]
        count, distances, layers, experts = found.shape
        out = np.zeros((count, layers, self.depth, experts), np.float32)
        reach = self.depth if self.network.any_distance else min(self.depth, distances)
        for ahead in range(min(reach, layers - 1)):
            known = found[:, 0 if self.network.any_distance else ahead]
            out[:, : layers - ahead - 1, ahead] = known[:, ahead + 1 :]
        return out

    def by_target(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, A, L, E] the same by target: of layer m as known d + 1 layers before it (MoE-Beyond: A = 1, any d)."""
        requests = self.source.request_of(rows)
        numbers = (rows - self.source.trace.request_offsets[requests]) // self.chunk_rows
        wanted = dict.fromkeys(zip(requests.tolist(), numbers.tolist(), strict=True))
        held = {key: self._chunk(*key) for key in wanted}
        first = next(iter(held.values()))
        out = np.empty((rows.size, *first.shape[1:]), np.float32)
        for (request, number), chunk in held.items():
            inside = np.flatnonzero((requests == request) & (numbers == number))
            start = self.source.bounds(request)[0] + number * self.chunk_rows
            out[inside] = chunk[rows[inside] - start]
        self._forget(len(held))
        return out

    def at_distance(self, ahead: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, L, E] of each layer as known ``ahead`` + 1 layers before it."""
        return self.by_target(rows)[:, ahead]

    def _chunk(self, request: int, number: int) -> NDArray[np.float32]:
        """Forecasts of one chunk, computed from the nearest state that is still there."""
        if (request, number) not in self.chunks:
            done, carry = self.carried.pop(request, (0, None))
            if done > number or not self.network.carries:
                done, carry = 0 if self.network.carries else number, None
            for current in range(done, number + 1):
                carry = self._compute(request, current, carry)
        self.chunks.move_to_end((request, number))
        return self.chunks[request, number]

    def _compute(self, request: int, number: int, carry: Any) -> Any:
        import torch

        from traces.torch_threads import single_thread

        first, end = self.source.bounds(request)
        start = first + number * self.chunk_rows
        stop = min(start + self.chunk_rows, end)
        with torch.no_grad(), single_thread():
            logits, carry = self.network(self.source.read(start, stop), carry or None)
            scores = torch.sigmoid(logits) * self.network.predicts[:, :, None]
        if not bool(torch.isfinite(scores).all()):
            raise UserError("the predictor's forecasts are no numbers: its weights are damaged, train it again")
        self.chunks[request, number] = scores.numpy().astype(np.float32)
        if stop < end and self.network.carries:
            self.carried[request] = (number + 1, carry)
        return carry

    def _forget(self, in_use: int) -> None:
        """Drop the chunks and states that were not used for longest, beyond what this read needed twice over."""
        while len(self.chunks) > 2 * in_use and sum(c.nbytes for c in self.chunks.values()) > MAX_CACHED_BYTES:
            self.chunks.popitem(last=False)
        while len(self.carried) > 2 * in_use + 16:
            self.carried.popitem(last=False)


def make_forecaster(part: Prediction, trace: Trace, as_decode: bool = False) -> Forecaster:
    """The forecaster of a policy's prediction part, by its ``checkpoint``, over the requests that are replayed.

    Raises: UserError where there is no checkpoint, it does not fit the part or the trace, or it learned from a request
    that is to be replayed.
    """
    trained = require_trained(part)
    checkpoint, name, depth = checkpoint_of(trained), trained.checkpoint, part.depth(trace.num_layers)
    _check_part(trained, checkpoint, name, depth)
    shape = Shape.of(trace)
    if shape != checkpoint.shape:
        raise UserError(
            f"policy.prediction.checkpoint={name}: it predicts {_words(checkpoint.shape)}, "
            f"and the trace is of {_words(shape)}; train one with {HOW} (predictor={checkpoint.kind} trace.path=FILE)"
        )
    refuse_learned(trace, checkpoint.training, name)
    forecaster = forecaster_of(checkpoint, trace, depth, as_decode)
    forecaster.origin = {"checkpoint": name, "kind": checkpoint.kind, **checkpoint.training}
    return forecaster


def forecaster_of(checkpoint: Checkpoint, trace: Trace, depth: int, as_decode: bool = False) -> Forecaster:
    """A forecaster from a checkpoint that fits the trace. Raises: UserError where its weights are damaged."""
    import torch

    from sim.predictors.networks import make_network

    source = RowSource(trace, checkpoint.inputs, checkpoint.vocabulary, as_decode)
    with torch.random.fork_rng(devices=[]):
        network = make_network(checkpoint.settings, checkpoint.shape, checkpoint.inputs, checkpoint.vocabulary.size)
    try:
        network.load_state_dict({name: torch.from_numpy(value) for name, value in checkpoint.weights.items()})
    except RuntimeError as error:
        raise UserError("the predictor's weights do not fit its settings: train it again") from error
    return Forecaster(network, source, depth)


def _check_part(part: TrainedPrediction, checkpoint: Checkpoint, name: str, depth: int) -> None:
    """The part must be of the checkpoint's kind, causal as it is, and ask for no layer it does not reach."""
    if part.kind != checkpoint.kind:
        raise UserError(
            f"policy.prediction.checkpoint={name}: holds a predictor of kind {checkpoint.kind}, and the policy wants "
            f"one of kind {part.kind}"
        )
    causal = part.is_causal()
    if causal != checkpoint.settings.causal:
        trained = str(checkpoint.settings.causal).lower()
        raise UserError(f"policy.prediction.causal={str(causal).lower()}: {name} was trained with causal={trained}")
    reach = getattr(checkpoint.settings, "stride", depth)
    if depth > reach:
        raise UserError(f"policy.prediction.layers={depth}: {name} looks only {reach} ahead (predictor.stride)")


def _words(shape: Shape) -> str:
    return f"{shape.model} with {shape.num_layers} layers, top-{shape.top_k} of {shape.num_experts} experts"
