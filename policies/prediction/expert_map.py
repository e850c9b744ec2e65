"""What the most similar earlier token went on to use: FineMoE's expert maps."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Prediction, Vector, require
from policies.jitable import jitable
from policies.memory import Matrix, cosine_of, dot, matrix_at
from policies.needs import Need
from policies.scores import mean_scores
from policies.state import DECODE, State
from traces.errors import UserError
from traces.format.trace import Trace


@jitable
def best_match(products: Matrix, squares: Matrix, own_square: float, filled: int) -> int:
    """The stored map with the highest cosine to the layers seen so far; ties to the first."""
    best, highest = 0, -1.0
    for place in range(filled):
        similarity = cosine_of(products[place], squares[place], own_square)
        if similarity > highest:
            best, highest = place, similarity
    return best


@dataclass(frozen=True)
class ExpertMap(Prediction):
    """Predict layers at least ``distance`` ahead by the stored token whose gate scores so far are most like this one's.

    A map [L, E] holds the gate scores of one token in all layers. At layer l the best match of the store is the map
    with the highest cosine to the current one over layers 0..l (its trajectory); from it come the layers l + distance
    and later, each row times that cosine: a row that sums to s comes from a map of similarity s, which is how
    prefetch rules learn it. Layers before ``distance`` are predicted in FineMoE by the embedding of the token. A trace
    has no embeddings: the scores of layer 0, close to the embedding, stand in, so that at layer 0 all later layers are
    predicted. Prefetch rules that look at the next layer only want distance=1.
    ``fitted``: the store begins with the tokens of other requests; ``online``: each decode step joins it, and when the
    store is full it replaces the map that it is most similar to over all layers (FineMoE also weighs the similarity of
    embeddings, by distance / L). A step of several tokens has one map, their mean; prompts do not join.
    Badly: tokens whose first layers say little about the later ones; each layer costs capacity * E operations.

    Memory: [maps stored, squared length of the current trajectory], the current map [L, E], per stored map its product
    with the current trajectory and its squared length so far [2, C], squared lengths of its rows [C, L], the store
    [C, L, E].

    Source: FineMoE, https://arxiv.org/abs/2502.05370; store and match in its code,
    https://github.com/IntelliSys-Lab/FineMoE-EuroSys26, finemoe/runtime/model_offload.py.
    """

    capacity: int = 1000
    distance: int = 6
    fitted: bool = True
    online: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.prediction.capacity", self.capacity, 1, 100000)
        require("policy.prediction.distance", self.distance, 1, 1024)
        if not (self.online or self.fitted):
            raise UserError("policy.prediction.online=false and fitted=false: one of them must be true")

    def all_needs(self) -> frozenset[Need]:
        return self.needs | ({Need.FIT} if self.fitted else set())

    def depth(self, num_layers: int) -> int:
        return max(1, num_layers - 1)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        matrix = num_layers * num_experts
        return 2 + matrix + self.capacity * (2 + num_layers + matrix)

    def fit(self, trace: Trace) -> Vector:
        layers, experts, size = trace.num_layers, trace.num_experts, self.capacity
        store, filled = stored_maps(trace, size)
        squares = np.square(store.reshape(size, layers, experts)).sum(axis=2)
        start = np.zeros(2 + layers * experts + 2 * size)
        start[0] = filled
        return np.concatenate([start, squares.ravel(), store.ravel()])

    def predict(self, state: State, memory: Vector) -> None:
        layers, experts, layer, size = state.num_layers, state.num_experts, state.layer, self.capacity
        start = 2 + layers * experts
        current = matrix_at(memory, 2, layers, experts)
        products, squares = memory[start : start + size], memory[start + size : start + 2 * size]
        row_squares = matrix_at(memory, start + 2 * size, size, layers)
        store = matrix_at(memory, start + size * (2 + layers), size * layers, experts)
        if layer == 0:
            memory[1] = 0.0
            products[:] = 0.0
            squares[:] = 0.0
        filled = int(memory[0])
        mean_scores(state, current[layer])
        memory[1] += dot(current[layer], current[layer])
        for place in range(filled):
            products[place] += dot(store[place * layers + layer], current[layer])
            squares[place] += row_squares[place, layer]
        place = best_match(products, squares, memory[1], filled)
        if layer == layers - 1:
            if self.online and state.phase == DECODE:
                place = filled if filled < size else place
                store[place * layers : (place + 1) * layers] = current
                for other in range(layers):
                    row_squares[place, other] = dot(current[other], current[other])
                memory[0] = max(filled, place + 1)
            return
        first = 0 if layer == 0 else self.distance - 1
        if filled == 0 or layer + 1 + first >= layers:
            return
        similarity = cosine_of(products[place], squares[place], memory[1])
        state.num_predicted, state.num_predicted_tokens = layers - 1 - layer, 1
        for ahead in range(state.num_predicted):
            for expert in range(experts):
                score = similarity * store[place * layers + layer + 1 + ahead, expert]
                state.predicted[ahead, 0, expert] = score if ahead >= first else 0.0


def stored_maps(trace: Trace, capacity: int) -> tuple[NDArray[np.float64], int]:
    """The maps of a trace's tokens in a store [capacity, L * E] that replaces its most similar map, and how many."""
    store = np.zeros((capacity, trace.num_layers * trace.num_experts))
    lengths = np.ones(capacity)
    for row in range(trace.num_tokens):
        found = trace.gate_scores(row, row + 1).astype(np.float64).ravel()
        place = row if row < capacity else int(np.argmax(store @ found / lengths))
        store[place], lengths[place] = found, np.linalg.norm(found)
    return store, min(trace.num_tokens, capacity)
