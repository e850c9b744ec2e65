"""Rules that use every freedom a rule has, for tests of engines: no paper proposes them."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Assignment, Prediction, Prefetch, Substitution, Vector
from policies.hashing import uniform
from policies.needs import Need
from policies.prefetch.top_score import TopScore
from policies.state import CPU, DROPPED, State


@dataclass(frozen=True)
class InPieces(TopScore):
    """Prefetch in three pieces."""

    def chunks(self) -> int:
        return 3


@dataclass(frozen=True)
class Guess(Prediction):
    """Predict two layers ahead at random."""

    def depth(self, num_layers: int) -> int:
        return 2

    def predict(self, state: State, memory: Vector) -> None:
        state.num_predicted = min(2, state.num_layers - 1 - state.layer)
        state.num_predicted_tokens = 1
        for ahead in range(state.num_predicted):
            for expert in range(state.num_experts):
                state.predicted[ahead, 0, expert] = uniform(state.seed, state.now, ahead, expert)


@dataclass(frozen=True)
class Eager(Prefetch):
    """Fetch everything predicted above a half, in three pieces each, nearest layer first."""

    def chunks(self) -> int:
        return 3

    def choose(self, state: State, memory: Vector) -> None:
        for ahead in range(state.num_predicted):
            for expert in range(state.num_experts):
                if state.predicted[ahead, 0, expert] > 0.7:
                    state.prefetch_layer[state.num_prefetch] = state.layer + 1 + ahead
                    state.prefetch_expert[state.num_prefetch] = expert
                    state.num_prefetch += 1


@dataclass(frozen=True)
class Shake(Substitution):
    """Drop, replace or degrade at random."""

    low_bits: float = 4.0

    needs: ClassVar[frozenset[Need]] = frozenset({Need.LOW_PRECISION})

    def low_precision_bits(self) -> float:
        return self.low_bits

    def substitute(self, state: State, memory: Vector) -> None:
        for expert in range(state.num_experts):
            state.degraded[expert] = uniform(state.seed, state.now, 1, expert) < 0.4
        for token in range(state.num_tokens):
            luck, ranks = uniform(state.seed, state.now, 2, token), state.token_ranks[token]
            if ranks == 0:
                continue
            if luck < 0.2:
                state.executed_ids[token, 0] = DROPPED
            elif luck < 0.6:
                for expert in range(state.num_experts):
                    taken = False
                    for rank in range(ranks):
                        taken = taken or state.ids[token, rank] == expert
                    if not taken:
                        state.executed_ids[token, ranks - 1] = expert
                        break


@dataclass(frozen=True)
class CoinSide(Assignment):
    """Let a coin decide who supplies an expert; serve in reverse order."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        for i in range(state.num_missing):
            if uniform(state.seed, state.now, 3, state.missing[i]) < 0.4:
                state.side[i] = CPU
            state.order[i] = state.num_missing - 1 - i
