"""What the previous token used."""

from dataclasses import dataclass

from policies.base import Prediction, Vector, require
from policies.predictions import count_token, layers_left, write_shares
from policies.state import DECODE, State


@dataclass(frozen=True)
class PreviousToken(Prediction):
    """Predict for the next ``layers`` layers the experts that the same sequence's previous token used there.

    score_i = share of the previous tokens, one per sequence of the batch, that used expert i; with one sequence 1 or 0.
    One prediction for the whole step: a batch does not say which of its rows belongs to which sequence. For the first
    decode step the previous token is the last one of the prompt; of a prompt that comes in chunks it is the last one of
    each chunk. Prompts are not predicted: their tokens come at once.
    Badly: wherever neighbouring tokens share few experts; it can never name an expert that was just not used.

    Memory: [0] group + 1, then per layer [sequences remembered, how many of them used each expert (E)].

    Source: the temporal locality of experts, Eliseev and Mazur, section 3.1, https://arxiv.org/abs/2312.17238.
    """

    layers: int = 1

    def __post_init__(self) -> None:
        require("policy.prediction.layers", self.layers, 1, 1024)

    def depth(self, num_layers: int) -> int:
        return max(1, min(self.layers, num_layers - 1))

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1 + num_layers * (1 + num_experts)

    def predict(self, state: State, memory: Vector) -> None:
        width = 1 + state.num_experts
        if memory[0] != state.group + 1:
            memory[:] = 0.0
            memory[0] = state.group + 1
        own = 1 + state.layer * width
        if state.phase != DECODE:  # prompts of a batch come one after the other: remember the last token of each
            count_token(state, memory, own, state.num_tokens - 1)
            return
        for ahead in range(layers_left(state, self.layers)):
            if not write_shares(state, ahead, memory, own + (1 + ahead) * width):
                break
        memory[own : own + width] = 0.0
        for token in range(state.num_tokens):
            count_token(state, memory, own, token)
