"""The weights of executed experts: as this model's router would give them, or those of the experts they replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy, Substitution
from policies.state import DROPPED
from sim.engine.decision.device import decides
from sim.live.router_output import Routed, as_array
from traces.errors import UserError
from traces.recording.moe_layers import MoELayer
from traces.recording.moe_probe import probe_tokens
from traces.recording.score_function import name_score_function
from traces.recording.tap import Routing, Tap

if TYPE_CHECKING:
    import torch

OWN, INHERIT = "own", "inherit"
SCHEMES = (OWN, INHERIT)


@dataclass(frozen=True, slots=True)
class GateRule:
    """How a router makes weights of its logits, as ``traces.recording.score_function`` finds it in recorded weights.

    With scores s = softmax or sigmoid of the logits: ``renormalises`` is w = C * s_e / (sum of s over the chosen),
    else w = C * s_e. The constant is read off each token's own weights. ``function`` None: not known.
    """

    function: str | None
    renormalises: bool

    @classmethod
    def named(cls, name: str | None) -> GateRule:
        """From a trace's ``score_function``, for example "softmax_topk"."""
        return cls(None, False) if name is None else cls(name.removesuffix("_topk"), name.endswith("_topk"))

    @classmethod
    def probed(cls, model: torch.nn.Module, layers: tuple[MoELayer, ...]) -> GateRule:
        """From the weights that the model's routers give in one short pass."""
        import torch

        routings: list[Routing] = []
        with torch.no_grad(), Tap(model, routings.append, layers=layers):
            model(input_ids=probe_tokens(model))
        ids = np.stack([routing.topk_ids.cpu().numpy() for routing in routings], axis=1)
        weights = np.stack([as_array(routing.topk_weights) for routing in routings], axis=1)
        logits = [as_array(routing.router_logits) for routing in routings if routing.router_logits is not None]
        known = len(logits) == len(routings)
        return cls.named(name_score_function(ids, weights, np.stack(logits, axis=1) if known else None)[0])

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
        scores = logits.softmax(-1) if self.function == "softmax" else logits.sigmoid()
        scale = weights.sum(-1, keepdim=True) / scores.gather(1, ids).sum(-1, keepdim=True)
        return scale * scores.gather(1, chosen)


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
