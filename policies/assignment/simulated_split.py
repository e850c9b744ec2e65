"""Simulate GPU and CPU taking experts from two ends of a queue: HybriMoE."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Assignment, Vector, require
from policies.memory import given
from policies.needs import Need
from policies.splits import sort_falling
from policies.state import ABSENT, CPU, DECODE, LINK, State
from traces.errors import UserError


@dataclass(frozen=True)
class SimulatedSplit(Assignment):
    """Queue the cached experts, then the missing ones, each by falling token count; the GPU takes the head, the CPU
    the tail, whichever would finish its next expert first.

    A missing expert at the head costs the GPU its compute, plus the wait if its copy, after the copies before it, has
    not arrived by then; ties go to the GPU. Cached experts are never computed on the CPU here: the simulator executes
    what is resident on the GPU. Costs are the machine's own, unless the released code's constants are given (yaml
    ``simulated_split_code``): it decides with ``gpu_ms`` per expert, ``move_ms`` per copy and ``cpu_ms_per_token`` on
    the CPU, plus ``cpu_ms_once`` for the first expert there, whatever the machine takes. Its comments name 1 ms per
    token for DeepSeek, 0.8 for Qwen2 and 0.2 for Mixtral; 1 is what runs.
    ``during_prefill=false`` copies everything in prefill, as the released code does; the paper schedules prefill too.
    Badly: token counts are all 1 in decode at batch 1, so the order of the demand decides who goes to the CPU.

    Source: HybriMoE, https://arxiv.org/abs/2504.05897; ktransformers/operators/experts.py, ``HSS``,
    https://github.com/PKU-SEC-Lab/HybriMoE.
    """

    during_prefill: bool = True
    gpu_ms: float | None = None
    move_ms: float | None = None
    cpu_ms_per_token: float | None = None
    cpu_ms_once: float = 0.0

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def __post_init__(self) -> None:
        constants = {name: getattr(self, name) for name in ("gpu_ms", "move_ms", "cpu_ms_per_token")}
        for name, value in (constants | {"cpu_ms_once": self.cpu_ms_once}).items():
            if value is not None:
                require(f"policy.assignment.{name}", value, 0.0, 1e6)
        left_out = [name for name, value in constants.items() if value is None]
        if 0 < len(left_out) < len(constants):
            raise UserError(
                f"policy.assignment.{left_out[0]}=null: give all of {', '.join(constants)}, or none of them"
            )
        if left_out and self.cpu_ms_once:
            raise UserError(
                f"policy.assignment.cpu_ms_once={self.cpu_ms_once:g}: must be 0 where the machine's costs count"
            )

    def assign(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE and not self.during_prefill:
            return
        load_ns, cpu_ns, gpu_ns = (
            state.missing_load_ns.astype(np.float64),
            state.missing_cpu_ns.astype(np.float64),
            state.missing_gpu_ns.astype(np.float64),
        )
        ready_ns = state.executed_gpu_ns.astype(np.float64)
        if given(self.gpu_ms) and given(self.move_ms) and given(self.cpu_ms_per_token):
            load_ns[:], gpu_ns[:], ready_ns[:] = self.move_ms * 1e6, self.gpu_ms * 1e6, self.gpu_ms * 1e6
            for i in range(state.num_missing):
                cpu_ns[i] = self.cpu_ms_per_token * 1e6 * state.missing_tokens[i]
        cached, cached_count, tokens = np.zeros(state.num_executed, np.int32), 0, np.zeros(state.num_executed)
        for i in range(state.num_executed):
            tokens[i] = state.executed_tokens[i]
            if state.status[state.layer, state.executed[i]] != ABSENT:
                cached[cached_count] = i
                cached_count += 1
        sort_falling(tokens, cached_count, cached)
        missing = np.zeros(state.num_missing, np.int32)
        for i in range(state.num_missing):
            missing[i] = i
            tokens[i] = state.missing_tokens[i]
        sort_falling(tokens, state.num_missing, missing)
        on_gpu_ns, on_cpu_ns, on_link_ns = 0.0, 0.0, 0.0
        done, first, last = 0, 0, state.num_missing - 1
        while first <= last:
            head, tail = missing[first], missing[last]
            if done < cached_count:
                end_ns = on_gpu_ns + ready_ns[cached[done]]
            else:
                end_ns = max(on_gpu_ns, on_link_ns + load_ns[head]) + gpu_ns[head]
            cpu_end_ns = on_cpu_ns + cpu_ns[tail] + (self.cpu_ms_once * 1e6 if last == state.num_missing - 1 else 0.0)
            if end_ns > cpu_end_ns:
                state.side[tail] = CPU
                on_cpu_ns = cpu_end_ns
                last -= 1
                continue
            on_gpu_ns = end_ns
            if done < cached_count:
                done += 1
            else:
                state.side[head] = LINK
                on_link_ns += load_ns[head]
                first += 1
        for i in range(state.num_missing):
            state.order[i] = missing[i]
