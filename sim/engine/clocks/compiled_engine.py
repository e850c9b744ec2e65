"""The engine that runs the compiled recurrence block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.engine.clocks.clock import CLOCK
from sim.engine.clocks.recurrence import run_steps
from sim.engine.clocks.timeline_log import WRITE_BACK, log_rows
from sim.engine.decision.device import Device, DeviceSpec, counted_from
from sim.engine.decision.struct_views import Struct
from sim.engine.interface import BlockResult
from sim.machine.durations import Durations
from sim.machine.parts import PARTS
from sim.workload.rows import BlockData
from sim.workload.steps import StepBlock

LOG_ROWS = 1 << 18


FAST_PATH_EXCLUDES = (
    "has_bypass", "has_predict", "fetches_early", "has_substitute", "has_assign", "holds_overflow", "is_static",
    "after_step",
)  # fmt: skip


def only_evicts(device: Device) -> bool:
    """Whether steps of one token can go through ``clocks.lean``: the policy only evicts, every step fits, and every
    token has K experts."""
    pools, spec = device.spec.pools, device.spec
    least = pools.capacity if spec.least_pool_bytes is None else np.full_like(pools.capacity, spec.least_pool_bytes)
    fits = (least[pools.pool_of] >= spec.top_k * pools.size).all()
    plain = all(device.cache.get(flag) == 0 for flag in FAST_PATH_EXCLUDES) and spec.policy.write_back == "none"
    return bool(fits and plain and not spec.fewer and (pools.size == pools.size[0]).all())


class CompiledEngine:
    """Replays blocks of one device as a compiled recurrence."""

    def __init__(self, spec: DeviceSpec, durations: Durations, resets: bool, timeline: bool) -> None:
        self.device, self.resets, self.timeline = Device(spec), resets, timeline
        ranks = spec.max_tokens * spec.top_k
        most = log_rows(spec.num_layers, spec.num_experts, spec.policy.prefetch.chunks(), ranks)
        self.log = np.zeros((max(LOG_ROWS, most) if timeline else 0, 5), np.int64)
        self.totals = np.zeros(4, np.int64)
        self.clock = Struct(
            CLOCK,
            write_back=WRITE_BACK[spec.policy.write_back],
            call_ns=durations.link_call_ns,
            expert_launch_ns=durations.expert_launch_ns,
            kv_ps_per_token=durations.kv_ps_per_token,
            pair_ps=durations.pair_ps,
            cpu_first=int(not durations.cpu_overlaps_gpu),
            after_last_copy=int(not durations.run_on_arrival),
            is_lean=int(not timeline and durations.run_on_arrival and only_evicts(self.device)),
            logs=int(timeline),
            copy_ns=durations.copies(),
            cpu_ns=durations.cpu_experts(),
            cpu_transfer_ns=durations.cpu_transfer_ns,
            expert_ns=durations.expert_ns,
            shared_ns=durations.shared_ns,
            attention_ns=durations.attention_weights_ns,
            head_ns=durations.head_ns,
            before_lookup_ns=int(durations.before_lookup_ns.sum()),
            after_experts_ns=int(durations.after_experts_ns.sum()),
            draft_parts_ns=durations.draft_parts_ns,
            layer_parts_ns=durations.before_lookup_ns + durations.after_experts_ns,
            after_parts_ns=durations.after_experts_ns,
            reads=int(spec.host is not None),
            read_ns=durations.read_ns,
            lead_ns=durations.lead_ns,
            piece_ns=durations.piece_ns,
            ready_ns=np.zeros(spec.num_experts, np.int64),
            read_late_ns=np.zeros(spec.num_experts, np.int64),
            arrived_at=np.zeros(spec.num_experts, np.int64),
            parts=np.zeros(len(PARTS), np.int64),
            log=self.log,
        )
        self.logs: list[NDArray[np.int64]] = []

    @property
    def link_busy_ns(self) -> int:
        return int(self.totals[0])

    @property
    def cpu_busy_ns(self) -> int:
        return int(self.totals[1])

    @property
    def storage_busy_ns(self) -> int:
        return int(self.totals[3])

    def replay(self, block: StepBlock, data: BlockData) -> BlockResult:
        """Replay the next steps."""
        result = BlockResult.empty(block)
        cuts = [len(block)]
        if self.resets:
            cuts = [*(np.flatnonzero(np.diff(block.group)) + 1).tolist(), len(block)]
        start = 0
        for stop in cuts:
            fresh = self.resets and self.device.enter_group(int(block.group[start]), block.pool_bytes_of(start))
            if self.device.earlier:
                self._count_from_restart(data, block.bounds[start], block.bounds[stop], fresh)
            while start < stop:
                start = self._run(block, data, result, fresh, start, stop)
                fresh = False
        return result

    def _count_from_restart(self, data: BlockData, first: int, stop: int, fresh: bool) -> None:
        """``now`` began anew: so do the times of the future, and no expert has arrived yet."""
        if data.next_use.size:
            data.next_use[first:stop] = counted_from(self.device.earlier, data.next_use[first:stop])
        if fresh:
            self.clock.arrays["arrived_at"][:] = 0

    def _run(self, block: StepBlock, data: BlockData, result: BlockResult, fresh: bool, start: int, stop: int) -> int:
        device = self.device
        done = run_steps(
            *device.structs, self.clock.address, fresh, start, stop, self.totals,
            block.bounds, block.phase, block.group, block.kv_tokens, block.attended_pairs, block.pause_ns,
            block.pool_bytes, block.num_requests(), block.passes(), *data.arrays(),
            result.latency_ns, result.parts_ns, result.counts, result.lost,
        )  # fmt: skip
        if self.timeline:
            self.logs.append(self.log[: self.totals[2]].copy())
        return int(done)

    def take_log(self) -> NDArray[np.int64]:
        """The timeline's slices since the last call."""
        logs, self.logs = self.logs, []
        return np.concatenate(logs) if logs else np.empty((0, 5), np.int64)

    def stop_log(self) -> None:
        """Keep no more slices."""
        self.timeline = False
        self.clock.set("logs", 0)
