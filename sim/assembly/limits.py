"""What 64-bit counters have room for: how many steps may be replayed between two looks at the sums, and the looks."""

from __future__ import annotations

from sim.engine.interface import BlockResult
from sim.machine.capacity import Pools
from sim.machine.durations import MOST, Durations
from sim.workload.steps import Schedule
from traces.errors import UserError

CHECK = "check the sizes of the model and the rates of the machine"


def steps_at_once(schedule: Schedule, durations: Durations, pools: Pools) -> int:
    """How many steps may pass before the sums must be looked at, so that none can leave 64 bits unseen.

    Raises: UserError where a single step might.
    """
    trace, tokens = schedule.trace, schedule.max_tokens()
    context = float(trace.prompt_len.max()) + trace.num_tokens
    kv_tokens, pairs = schedule.batch * context, tokens * context
    most_ps = max(kv_tokens * durations.kv_ps_per_token, pairs * durations.pair_ps)
    if not most_ps < MOST:
        raise UserError(f"attention over {context:.3g} tokens would take {most_ps / 1e12:.3g} s in one layer: {CHECK}")
    longest_ns = durations.longest_step_ns(trace.num_experts, kv_tokens, pairs) * schedule.batch + schedule.think_ns
    most_bytes = 4.0 * trace.num_layers * float(pools.size.sum(dtype=float)) * trace.num_experts
    steps = min(MOST / 2 / max(longest_ns, 1.0), MOST / 2 / max(most_bytes, 1.0))
    if steps < 1:
        raise UserError(
            f"one step might take {longest_ns / 1e9:.3g} s or move {most_bytes:.3g} bytes, more than can be counted "
            f"in 64 bits: {CHECK}"
        )
    return int(min(steps, MOST))


class Sums:
    """Looks at what a replay has added up so far."""

    def __init__(self, batch: int) -> None:
        self.batch, self.latency_ns, self.bytes = batch, 0, 0

    def add(self, result: BlockResult) -> None:
        """Raises: UserError where the next block might not be counted any more."""
        self.latency_ns += int(result.latency_ns.sum() + result.block.pause_ns.sum())
        self.bytes += int(result.count("copied_bytes").sum()) + int(result.count("written_back_bytes").sum())
        if self.latency_ns * self.batch > MOST / 2 or self.bytes > MOST / 2:
            raise UserError(
                f"the replay reached {self.latency_ns / 1e9:.3g} s and {self.bytes:.3g} bytes, and its sums do not fit "
                f"64 bits any more: replay fewer requests, or {CHECK}"
            )
