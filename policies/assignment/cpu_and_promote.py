"""Every missing expert is computed on the CPU at once; copies are a matter of background admission."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Assignment, Vector, require
from policies.memory import given
from policies.needs import Need
from policies.state import CPU, State


@dataclass(frozen=True)
class CpuAndPromote(Assignment):
    """Compute misses on the CPU in the same layer, those too that are still on the link; nothing is waited for.

    Copies to the GPU are what a prefetch rule of background admission chooses (``promote_missed``,
    ``promote_frequent``). A step of ``copy_from_tokens`` tokens or more copies its misses instead, as llama.cpp does
    with large batches (its GGML_OP_OFFLOAD_MIN_BATCH, 32); null: no step does.
    Badly: where the CPU takes longer for an expert than the link does.

    Source: expert caches of llama.cpp, https://github.com/ggml-org/llama.cpp/pull/27861 and
    https://github.com/ggml-org/llama.cpp/pull/24524.
    """

    copy_from_tokens: int | None = 32

    one_layer: ClassVar[bool] = True
    takes_late: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def __post_init__(self) -> None:
        if self.copy_from_tokens is not None:
            require("policy.assignment.copy_from_tokens", self.copy_from_tokens, 1, 2**31)

    def assign(self, state: State, memory: Vector) -> None:
        if given(self.copy_from_tokens) and state.num_tokens >= self.copy_from_tokens:
            return
        for i in range(state.num_missing):
            state.side[i] = CPU
