"""Replace missing experts by resident ones that are often chosen together with them: BuddyMoE."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.memory import matrix_at
from policies.needs import Need
from policies.scores import logit_of
from policies.state import State
from policies.substitutes import best_resident, left_alone, mark_resident, mark_routed
from traces.format.mapped import load
from traces.format.ranks import signed_ids
from traces.format.trace import Trace

_ROWS = 4096


@dataclass(frozen=True)
class Buddy(Substitution):
    """Replace a missing expert by the resident one that was chosen together with it most often, in other requests.

    Nothing is replaced in a layer step of which a share of at least ``max_missing`` (beta) of the demanded experts is
    missing, nor for a token whose gate entropy is at most ``min_entropy`` (tau); a token replaces at most
    ``max_per_token`` (rho) experts, best rank first, and never takes an expert twice. Entropy is that of all gate
    scores over ln E, so that tau runs from 0 (one expert takes all) to 1 (all alike). The paper's values of the three
    limits and its exact entropy are not known to this project: the defaults are chosen here and bind as little as they
    can. An expert never chosen together with the missing one is no buddy.
    Badly: experts chosen together may complement rather than repeat each other; compare with ``similarity``.

    Memory: how often two experts were chosen for the same token, [L, E, E], which never changes.

    Source: BuddyMoE, https://arxiv.org/abs/2511.10054.
    """

    max_per_token: int = 1
    min_entropy: float = 0.0
    max_missing: float = 1.0
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES, Need.FIT})

    def __post_init__(self) -> None:
        require("policy.substitution.max_per_token", self.max_per_token, 0, 65535)
        require("policy.substitution.min_entropy", self.min_entropy, 0.0, 1.0)
        require("policy.substitution.max_missing", self.max_missing, 0.0, 1.0)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts * num_experts

    def fit(self, trace: Trace) -> Vector:
        experts = trace.num_experts
        together = np.zeros((trace.num_layers, experts, experts))
        for start in range(0, trace.num_tokens, _ROWS):
            ids = signed_ids(load(trace.topk_ids[start : start + _ROWS]), trace.fewer, np.int64)
            for layer in range(trace.num_layers):
                chosen = np.zeros((len(ids), experts + 1), np.float32)  # ranks without an expert write into the last
                np.put_along_axis(chosen, ids[:, layer], 1.0, axis=-1)
                together[layer] += chosen[:, :experts].T @ chosen[:, :experts]
        together[:, np.arange(experts), np.arange(experts)] = 0.0
        return together.reshape(-1)

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill):
            return
        experts = state.num_experts
        resident = np.zeros(experts, np.bool_)
        mark_resident(state, resident)
        missing = 0
        for i in range(state.num_demand):
            if not resident[state.demand[i]]:
                missing += 1
        if missing >= self.max_missing * state.num_demand:
            return
        used = np.zeros(experts, np.bool_)
        together = matrix_at(memory, state.layer * experts * experts, experts, experts)
        for token in range(state.num_tokens):
            entropy = 0.0
            for expert in range(experts):
                score = float(state.scores[token, expert])
                entropy -= score * logit_of(score)
            if entropy <= self.min_entropy * np.log(experts):
                continue
            mark_routed(state, token, used)
            replaced = 0
            for rank in range(state.token_ranks[token]):
                routed = state.ids[token, rank]
                if resident[routed] or replaced >= self.max_per_token:
                    continue
                best = best_resident(together[routed], 1.0, resident, used)
                if best >= 0:
                    used[best] = True
                    state.executed_ids[token, rank] = best
                    replaced += 1
