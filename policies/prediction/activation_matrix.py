"""What the most similar earlier sequence used: MoE-Infinity's activation matrices."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.base import Prediction, Vector, require
from policies.jitable import jitable
from policies.memory import Matrix, cosine_of, dot, matrix_at
from policies.needs import Need
from policies.state import State
from traces.errors import UserError
from traces.format.mapped import load
from traces.format.ranks import use_counts
from traces.format.trace import Trace


@jitable
def collect(matrix: Matrix, collected: Matrix, matched: Matrix, filled: int) -> int:
    """Let a finished sequence join the collection -> how many it holds then; a full one loses its least matched."""
    size, layers = matched.shape[0], matrix.shape[0]
    place = filled if filled < size else int(np.argmin(matched))
    collected[place * layers : (place + 1) * layers] = matrix
    matched[place] = 1.0
    return int(min(filled + 1, size))


@jitable
def nearest(cosines: Matrix, filled: int, first_layer: int) -> int:
    """The collected sequence with the highest sum of cosines from ``first_layer`` on; ties to the first."""
    best, highest = 0, -1.0
    for place in range(filled):
        total = cosines[place, first_layer:].sum()
        if total > highest:
            best, highest = place, total
    return best


@dataclass(frozen=True)
class ActivationMatrix(Prediction):
    """Predict all later layers from the collected sequence whose expert counts are most like this one's.

    M [L, E] counts how often each expert was used in this sequence, prompt included. The nearest matrix N of a
    collection of whole sequences has the highest mean over layers of cosine(M[l], N[l]), a layer not used yet counting
    0. For each later layer l:  score_i = (N[l, i] / sum(N[l]) + epsilon) * (1 - (l - current) / L).
    ``fitted``: the collection begins with the last ``collection`` of the other requests; ``online``: each finished
    sequence joins it, in place of the least often matched one when it is full. A batch counts as one sequence, its
    tokens summed, because its rows carry no names. The size of the collection is not taken from the paper.
    The released code differs (yaml ``activation_matrix_code``): ``code_decay`` divides by L + 1 instead of L;
    ``later_layers_only`` compares only layers after the current one, that is counts of earlier tokens, because it
    blanks the others on the collection's side; ``epsilon`` 1e-8 puts every expert into the prediction.
    Badly: long or mixed sequences, whose counts all look alike; each layer costs collection * E operations.

    Memory: [group + 1, size of the collection], M [L, E], times matched [C], cosines of the current sequence [C, L],
    the collection [C, L, E].

    Source: MoE-Infinity, https://arxiv.org/abs/2401.14361; its code, memory/expert_tracer.py and expert_predictor.py,
    https://github.com/EfficientMoE/MoE-Infinity.
    """

    collection: int = 100
    fitted: bool = True
    online: bool = True
    code_decay: bool = False
    later_layers_only: bool = False
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        require("policy.prediction.collection", self.collection, 1, 100000)
        require("policy.prediction.epsilon", self.epsilon, 0.0, 1.0)
        if not (self.online or self.fitted):
            raise UserError("policy.prediction.online=false and fitted=false: one of them must be true")

    def all_needs(self) -> frozenset[Need]:
        return frozenset({Need.FIT} if self.fitted else ())

    def depth(self, num_layers: int) -> int:
        return max(1, num_layers - 1)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        matrix = num_layers * num_experts
        return 2 + matrix + self.collection * (1 + num_layers + matrix)

    def fit(self, trace: Trace) -> Vector:
        layers, experts = trace.num_layers, trace.num_experts
        memory = np.zeros(self.memory_size(layers, experts, trace.top_k))
        first = max(0, trace.num_requests - self.collection)
        matrices: Any = memory[-self.collection * layers * experts :].reshape(self.collection, layers, experts)
        for place, request in enumerate(range(first, trace.num_requests)):
            rows = load(trace.topk_ids[trace.request_offsets[request] : trace.request_offsets[request + 1]])
            matrices[place] = use_counts(rows, trace.fewer, experts)
        memory[1] = trace.num_requests - first
        return memory

    def predict(self, state: State, memory: Vector) -> None:
        layers, experts, size, layer = state.num_layers, state.num_experts, self.collection, state.layer
        start = 2 + layers * experts
        current = matrix_at(memory, 2, layers, experts)
        matched = memory[start : start + size]
        cosines = matrix_at(memory, start + size, size, layers)
        collected = matrix_at(memory, start + size * (1 + layers), size * layers, experts)
        if memory[0] != state.group + 1:
            if self.online and current.sum() > 0.0:
                memory[1] = collect(current, collected, matched, int(memory[1]))
            memory[0] = state.group + 1
            current[:] = 0.0
            cosines[:] = 0.0
        for token in range(state.num_tokens):
            for rank in range(state.token_ranks[token]):
                current[layer, state.ids[token, rank]] += 1
        filled, square = int(memory[1]), dot(current[layer], current[layer])
        for place in range(filled):
            other = collected[place * layers + layer]
            cosines[place, layer] = cosine_of(dot(current[layer], other), square, dot(other, other))
        if filled == 0 or layer == layers - 1:
            return
        place = nearest(cosines, filled, layer + 1 if self.later_layers_only else 0)
        matched[place] += 1
        state.num_predicted, state.num_predicted_tokens = layers - 1 - layer, 1
        for ahead in range(state.num_predicted):
            row = collected[place * layers + layer + 1 + ahead]
            decay, total = 1.0 - (1 + ahead) / (layers + self.code_decay), max(row.sum(), 1.0)
            for expert in range(experts):
                state.predicted[ahead, 0, expert] = (row[expert] / total + self.epsilon) * decay
