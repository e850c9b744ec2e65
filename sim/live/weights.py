"""The weights of executed experts: as this model's router would give them, or those of the experts they replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy, Substitution
from policies.state import DROPPED
from sim.engine.decision.device import decides
from sim.live.router_output import Routed
from traces.errors import UserError
from traces.recording.moe_layers import MoELayer
from traces.recording.tap import Routing

if TYPE_CHECKING:
    import torch

OWN, INHERIT = "own", "inherit"
SCHEMES = (OWN, INHERIT)


@dataclass(frozen=True, slots=True)
class GateRule:
    """How a router makes weights of its logits, as ``traces.format.score_function`` finds it in recorded weights.

    With scores s = softmax, sigmoid or sqrtsoftplus of the logits: ``renormalises`` is w = C * s_e / (sum of s over the
    chosen), else w = C * s_e. The constant is read off each token's own weights. ``function`` None: not known.
    """

    function: str | None
    renormalises: bool

    @classmethod
    def named(cls, name: str | None) -> GateRule:
        """From a trace's ``score_function``, for example "softmax_topk"; not known for one that it cannot reverse."""
        function = (name or "").removesuffix("_topk")
        return (
            cls(function, name != function) if function in ("softmax", "sigmoid", "sqrtsoftplus") else cls(None, False)
        )

    @classmethod
    def of_layers(cls, layers: tuple[MoELayer, ...]) -> GateRule:
        """From what explained the weights that a model's routers gave in the pass that found its layers."""
        return cls.named(score_function_of(layers))

    @property
    def best_scheme(self) -> str:
        """``own``, or ``inherit`` where it is not known how the router makes weights."""
        return INHERIT if self.function is None else OWN

    def check(self, scheme: str, family: str) -> None:
        """Raises: UserError where substitutes cannot have weights of their own."""
        if scheme not in SCHEMES:
            raise UserError(f"weights={scheme}: must be {' or '.join(SCHEMES)}")
        if scheme == OWN and self.function is None:
            raise UserError(
                f"weights=own: how {family} makes weights of its router's logits could not be told from its own "
                "weights: use weights=inherit"
            )

    def replacement(
        self, routing: Routing, ids: torch.Tensor, executed: torch.Tensor, scheme: str
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Ids and weights [T, K] to execute; None where nothing is replaced or dropped.

        ``ids``, ``executed`` [T, K]: routed and executed experts rank by rank. Tokens that execute what was routed keep
        their weights bit for bit. A dropped expert runs with weight 0; the others of its token share its weight where
        the router renormalises.
        """
        changed = (executed != ids).any(-1, keepdim=True)
        if not bool(changed.any()):
            return None
        dropped = executed == DROPPED
        weights = routing.topk_weights.float()
        chosen = ids.where(dropped, executed)
        own = weights if scheme == INHERIT else self._own(routing, ids, chosen, weights)
        kept = own.masked_fill(dropped, 0.0)
        if self.renormalises:
            kept = kept * (weights.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp_min(1e-30))
        return chosen, kept.where(changed, weights)

    def _own(self, routing: Routing, ids: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """c * s of the chosen experts, with c from the token's routed ones."""
        assert routing.router_logits is not None
        logits = routing.router_logits.float()
        scores = _SCORES[self.function or ""](logits)
        scale = weights.sum(-1, keepdim=True) / scores.gather(1, ids).sum(-1, keepdim=True)
        return scale * scores.gather(1, chosen)


def score_function_of(layers: tuple[MoELayer, ...]) -> str | None:
    """How the routers make weights of their logits; None where it is not known."""
    return None if layers[0].scores is None else layers[0].scores.function


_SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": lambda logits: logits.sigmoid(),
    "sqrtsoftplus": lambda logits: logits.exp().log1p().where(logits < 20, logits).sqrt(),
}


def substitutes(policy: Policy) -> bool:
    """Whether the policy may execute other experts than those routed."""
    return decides(policy.substitution, Substitution, "substitute")


def replacement(
    gate: GateRule, routing: Routing, routed: Routed, executed: NDArray[np.int32], scheme: str
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Ids and weights [T, K], in the router's order of ranks, in place of a routing; None where that is itself.

    ``executed`` [T, K]: what the policy executes, in the order of ``routed``.
    """
    if np.array_equal(executed, routed.ids):
        return None
    import torch

    chosen = torch.from_numpy(routed.in_router_order(executed).astype(np.int64)).to(routing.topk_ids.device)
    return gate.replacement(routing, routing.topk_ids.long(), chosen, scheme)
