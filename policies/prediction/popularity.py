"""What has been used most often."""

from dataclasses import dataclass

import numpy as np

from policies.base import Prediction, Vector, require
from policies.needs import Need
from policies.predictions import count_token, layers_left, write_shares
from policies.state import State
from traces.errors import UserError
from traces.format.ranks import use_counts
from traces.format.tensors import loaded_chunks
from traces.format.trace import Trace


@dataclass(frozen=True)
class Popularity(Prediction):
    """Predict the experts of the next ``layers`` layers by how often they were used there.

    score_i = tokens that used expert i of that layer / tokens seen in that layer. Tokens are counted, prompts included,
    not layer steps: a prediction for any token, the same for the whole step. ``online``: count this replay, over all
    its requests; ``fitted``: begin with the counts of other requests.
    Badly: where routing is balanced over long texts, as training for balance aims at: then all scores are nearly equal.

    Memory: per layer [tokens seen, how many of them used each expert (E)].

    Source: profiled popularity, as Fiddler uses it for placement, https://arxiv.org/abs/2402.07033.
    """

    layers: int = 1
    online: bool = True
    fitted: bool = False

    def __post_init__(self) -> None:
        require("policy.prediction.layers", self.layers, 1, 1024)
        if not (self.online or self.fitted):
            raise UserError("policy.prediction.online=false and fitted=false: one of them must be true")

    def all_needs(self) -> frozenset[Need]:
        return frozenset({Need.FIT} if self.fitted else ())

    def depth(self, num_layers: int) -> int:
        return max(1, min(self.layers, num_layers - 1))

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * (1 + num_experts)

    def fit(self, trace: Trace) -> Vector:
        rows = np.zeros((trace.num_layers, 1 + trace.num_experts))
        rows[:, 0] = trace.num_tokens
        for _, ids in loaded_chunks(trace.topk_ids):
            rows[:, 1:] += use_counts(ids, trace.fewer, trace.num_experts)
        return rows.ravel()

    def predict(self, state: State, memory: Vector) -> None:
        width = 1 + state.num_experts
        own = state.layer * width
        if self.online:
            for token in range(state.num_tokens):
                count_token(state, memory, own, token)
        for ahead in range(layers_left(state, self.layers)):
            if not write_shares(state, ahead, memory, own + (1 + ahead) * width):
                return
