"""Where in a model its routers' scores are found, and in which form, so that they give the weights of a probe pass.

Candidates are the tensors [T, E] that a router or a module beside it returns; the first that a named function turns
into the weights the experts received is taken. Without one, only ids and weights can be recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from traces.format.score_function import (
    FLOAT32_TOLERANCE,
    LOGITS,
    PROBABILITIES,
    Explanation,
    are_best,
    forms_of,
    name_score_function,
    to_logits,
)

if TYPE_CHECKING:
    import torch

BARE = -1
"""Place of a tensor that is itself what a module returns."""


@dataclass(frozen=True, slots=True)
class ScoreSource:
    """The place of the scores in what a router returns, their form, and what explains the weights.

    Scores may be of more classes than the first `num_experts`, which are experts: the others are left out of them.
    `tolerance`: of a weight, by the coarsest type of number that took part; `expert_scale`: the router's own parameter
    or buffer [E] by which weights are multiplied; `jitter`: of a sparse mixer; `function`: what explained the probe.
    """

    place: int
    form: str
    num_experts: int
    tolerance: float = FLOAT32_TOLERANCE
    expert_scale: str | None = None
    jitter: float | None = None
    function: str = ""

    def read(self, output: Any) -> torch.Tensor:
        """Logits [T, E] of a router's output, up to a constant of each token if they were probabilities."""
        scores = output if self.place == BARE else output[self.place]
        scores = scores.reshape(-1, scores.shape[-1])[:, : self.num_experts]
        if self.form == LOGITS:
            return scores  # type: ignore[no-any-return]
        safe = scores.double().clamp(1e-30, 1.0)
        logits = safe.log() if self.form == PROBABILITIES else safe.log() - (1.0 - safe).clamp_min(1e-12).log()
        return logits.float()  # type: ignore[no-any-return]

    def explain(
        self, routers: tuple[torch.nn.Module, ...], ids: NDArray[Any], weights: NDArray[Any], logits: NDArray[Any]
    ) -> Explanation | None:
        """What makes weights [T, L, K] of logits [T, L, E], for the routers of all layers."""
        vectors = None
        if self.expert_scale is not None:
            vectors = np.stack([as_numpy(_vectors(router)[self.expert_scale]) for router in routers])
        return name_score_function(ids, weights, logits, self.tolerance, vectors, self.jitter)


@dataclass(frozen=True, slots=True)
class Call:
    """One module's call in a probe pass: its place below the module around the experts, and what it returned."""

    place: str
    module: torch.nn.Module
    output: Any


def find_source(
    calls: tuple[tuple[Call, ...], ...], ids: NDArray[Any], weights: NDArray[Any], num_experts: int, tolerance: float
) -> tuple[str, ScoreSource] | None:
    """(place of the router below the module around the experts, its source of scores) that explains every layer.

    `calls`: of every layer, in the order in which they are tried; only places that all layers have are. `ids` and
    `weights` [T, L, K]. None where nothing explains the weights.
    """
    by_layer = [{call.place: call for call in layer} for layer in calls]
    for place in by_layer[0] if by_layer else {}:
        if not all(place in layer for layer in by_layer):
            continue
        routers = [layer[place] for layer in by_layer]
        for source, scores in _tables(routers, num_experts, len(ids), tolerance):
            found = source.explain(tuple(call.module for call in routers), ids, weights, scores)
            if found is not None and (found.shows or are_best(ids, scores)):
                return place, replace(source, function=found.function)
    return None


def _tables(
    routers: list[Call], num_experts: int, rows: int, tolerance: float
) -> Iterator[tuple[ScoreSource, NDArray[np.float32]]]:
    """Every reading of the routers' outputs as logits [T, L, E]."""
    outputs = [call.output for call in routers]
    lengths = {len(output) if isinstance(output, tuple | list) else 0 for output in outputs}
    places = [BARE] if lengths == {0} else range(min(lengths))
    jitter = _jitter(routers[0].module)
    scales = [None, *(name for name, value in _vectors(routers[0].module).items() if len(value) == num_experts)]
    for place in places:
        tensors = [output if place == BARE else output[place] for output in outputs]
        if not all(_is_table(tensor, num_experts, rows) for tensor in tensors):
            continue
        if len({tensor.shape[-1] for tensor in tensors}) > 1:
            continue
        table = np.stack([as_numpy(tensor).reshape(rows, -1) for tensor in tensors], axis=1)
        for form in forms_of(table):
            logits = to_logits(table[..., :num_experts], form)
            for scale in scales:
                yield ScoreSource(place, form, num_experts, tolerance, scale, jitter), logits


def _is_table(value: Any, num_experts: int, rows: int) -> bool:
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.ndim >= 2
        and value.shape[-1] >= num_experts
        and value.numel() == rows * value.shape[-1]
    )


def _jitter(router: torch.nn.Module) -> float | None:
    return next((value for name, value in vars(router).items() if "jitter" in name and isinstance(value, float)), None)


def _vectors(router: torch.nn.Module) -> dict[str, Any]:
    """Parameters and buffers of one dimension, by name."""
    return {name: value for name, value in [*router.named_parameters(), *router.named_buffers()] if value.ndim == 1}


def as_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor of any type and place as numbers, floating ones as float32."""
    plain = tensor.detach()
    array: NDArray[Any] = (plain.float() if plain.is_floating_point() else plain).cpu().numpy()
    return array


def tolerance_of(*tensors: torch.Tensor) -> float:
    """How far a weight may be from what its logits give: four steps of the coarsest type of number among `tensors`."""
    import torch

    return max([FLOAT32_TOLERANCE, *(4 * torch.finfo(tensor.dtype).eps for tensor in tensors)])
