"""Results of a replay in blocks of whole steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.build import Replay, StepResult

BLOCK_STEPS = 1024


@dataclass(frozen=True, slots=True)
class StepBlock:
    """S whole steps with N rows in replay order; step i owns rows[bounds[i]:bounds[i + 1]]."""

    rows: NDArray[np.int64]  # [N] of the trace
    requests: NDArray[np.int64]  # [N]
    bounds: NDArray[np.int64]  # [S + 1]
    group: NDArray[np.int64]  # [S]
    phase: NDArray[np.uint8]  # [S]
    kv_tokens: NDArray[np.int64]  # [S]
    attended_pairs: NDArray[np.int64]  # [S]

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.bounds) - 1


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block took and counted, per step."""

    block: StepBlock
    latency_ns: NDArray[np.int64] | None  # [S]; None without a clock
    parts_ns: NDArray[np.int64] | None  # [S, 7]
    counts: NDArray[np.int64]  # [S, len(COUNTERS)]
    lost: NDArray[np.float64]  # [S, 2] summed share of weight not executed as routed; token-layers summed


def blocks(replay: Replay) -> Iterator[BlockResult]:
    """Run a replay, ``BLOCK_STEPS`` steps at a time."""
    device = replay.device
    pending: list[tuple[StepResult, NDArray[np.int64], NDArray[np.float64]]] = []
    counts, lost = device.counts.copy(), device.lost.copy()
    for result in replay.steps():
        pending.append((result, device.counts - counts, device.lost - lost))
        counts[:], lost[:] = device.counts, device.lost
        if len(pending) == BLOCK_STEPS:
            yield _gather(pending)
            pending = []
    if pending:
        yield _gather(pending)


def _gather(pending: list[tuple[StepResult, NDArray[np.int64], NDArray[np.float64]]]) -> BlockResult:
    results, counts, lost = zip(*pending, strict=True)
    steps = [step for step, _, _ in results]
    sizes = [step.rows.size for step in steps]
    requests = [np.resize(step.requests, step.rows.size) for step in steps]
    block = StepBlock(
        rows=np.concatenate([step.rows for step in steps]),
        requests=np.concatenate(requests),
        bounds=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        group=np.array([step.group for step in steps], np.int64),
        phase=np.array([step.phase for step in steps], np.uint8),
        kv_tokens=np.array([step.kv_tokens for step in steps], np.int64),
        attended_pairs=np.array([step.attended_pairs for step in steps], np.int64),
    )
    parts = [parts for _, _, parts in results if parts is not None]
    latency = np.array([latency for _, latency, _ in results], np.int64) if parts else None
    return BlockResult(block, latency, np.stack(parts) if parts else None, np.stack(counts), np.stack(lost))
