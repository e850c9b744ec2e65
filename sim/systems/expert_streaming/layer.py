"""One MoE layer of one iteration, as both schemes execute it: which die holds how many tokens of which expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.systems.expert_streaming.package import Package
from sim.systems.timeline import Span


@dataclass(frozen=True, slots=True)
class Expert:
    """The size of one routed expert (gate, up and down matrix) and of one token's activations."""

    hidden_size: int
    ffn: int
    weight_bytes: float = 1.0
    activation_bytes: float = 1.0

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates of one token: 3 * hidden_size * ffn."""
        return 3 * self.hidden_size * self.ffn

    @property
    def bytes(self) -> int:
        """Bytes of the three matrices."""
        return round(self.macs_per_token * self.weight_bytes)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's hidden state."""
        return round(self.hidden_size * self.activation_bytes)


@dataclass(frozen=True, slots=True)
class Result:
    """What one iteration took and did; `executed` [experts, dies]: tokens computed, in whole experts."""

    makespan_ns: int
    compute_ns: tuple[int, ...]
    channel_ns: tuple[int, ...]
    link_ns: int
    link_bytes: int
    channel_bytes: int
    peak_bytes: tuple[int, ...]
    executed: NDArray[np.float64]
    log: list[Span] | None


def tokens_per_die(ids: NDArray[np.int64], num_experts: int, chiplets: int) -> NDArray[np.int64]:
    """[num_experts, chiplets]: tokens of each expert on each die, where token i lives on die i mod chiplets.

    ids [tokens, top_k]. Tokens are spread evenly, as the released configurations do (EVEN, no re-dispatch).
    """
    counts = np.zeros((num_experts, chiplets), np.int64)
    dies = np.repeat(np.arange(len(ids)) % chiplets, ids.shape[1])
    np.add.at(counts, (ids.ravel(), dies), 1)
    return counts


class Scheme(Protocol):
    """A way to execute the layer: `counts` and `executed` [experts, dies], tokens wanted and tokens computed."""

    package: Package
    expert: Expert
    counts: NDArray[np.int64]
    executed: NDArray[np.float64]

    def start(self) -> None:
        """Begin everything that waits for nothing."""


def run_layer(scheme: Scheme, num_tokens: int) -> Result:
    """Execute the layer; every die holds its own tokens, what they bring and what they take away, all the while.

    Raises: RuntimeError where a token did not meet each of its experts exactly once.
    """
    package, dies = scheme.package, scheme.package.machine.chiplets
    for die in range(dies):
        package.memory[die].hold(2 * scheme.expert.token_bytes * len(range(die, num_tokens, dies)))
    scheme.start()
    package.env.run()
    if not np.allclose(scheme.executed.sum(axis=1), scheme.counts.sum(axis=1), atol=1e-9):
        raise RuntimeError("a token was not computed by each of its experts exactly once")
    return Result(
        makespan_ns=int(package.env.now),
        compute_ns=tuple(package.compute_ns),
        channel_ns=tuple(package.channel_ns),
        link_ns=sum(package.link_ns.values()),
        link_bytes=package.link_bytes,
        channel_bytes=package.channel_bytes,
        peak_bytes=tuple(memory.peak_bytes for memory in package.memory),
        executed=scheme.executed,
        log=package.log,
    )
