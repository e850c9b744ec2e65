"""Simulate GPU and CPU taking experts from two ends of a queue: HybriMoE."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Assignment, Vector
from policies.needs import Need
from policies.splits import sort_falling
from policies.state import ABSENT, CPU, DECODE, LINK, State


@dataclass(frozen=True)
class SimulatedSplit(Assignment):
    """Queue the cached experts, then the missing ones, each by falling token count; the GPU takes the head, the CPU
    the tail, whichever would finish its next expert first.

    A missing expert at the head costs the GPU its compute, plus the wait if its copy, after the copies before it, has
    not arrived by then; ties go to the GPU. Cached experts are never computed on the CPU here: the simulator executes
    what is resident on the GPU. Costs are the machine's own, where the released code has constants per model.
    ``during_prefill=false`` copies everything in prefill, as the released code does; the paper schedules prefill too.
    Badly: token counts are all 1 in decode at batch 1, so the order of the demand decides who goes to the CPU.

    Source: HybriMoE, https://arxiv.org/abs/2504.05897; ktransformers/operators/experts.py, ``HSS``,
    https://github.com/PKU-SEC-Lab/HybriMoE.
    """

    during_prefill: bool = True

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE and not self.during_prefill:
            return
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
        gpu_ns, cpu_ns, link_ns, done, first, last = 0, 0, 0, 0, 0, state.num_missing - 1
        while first <= last:
            head, tail = missing[first], missing[last]
            if done < cached_count:
                end_ns = gpu_ns + state.executed_gpu_ns[cached[done]]
            else:
                end_ns = max(gpu_ns, link_ns + state.missing_load_ns[head]) + state.missing_gpu_ns[head]
            if end_ns > cpu_ns + state.missing_cpu_ns[tail]:
                state.side[tail] = CPU
                cpu_ns += state.missing_cpu_ns[tail]
                last -= 1
                continue
            gpu_ns = end_ns
            if done < cached_count:
                done += 1
            else:
                state.side[head] = LINK
                link_ns += state.missing_load_ns[head]
                first += 1
        for i in range(state.num_missing):
            state.order[i] = missing[i]
