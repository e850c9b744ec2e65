"""A calibration whose samples were computed from a known machine, so that it must find that machine again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.calibrate.in_situ import Portion, simulated_ns
from sim.calibrate.measure import CalibrationConfig, Measured, two_replays
from sim.calibrate.micro import CPU_TOKENS, SHARES, TOKENS
from sim.calibrate.samples import Sample
from sim.execution.load import Load
from sim.execution.settings import RealSettings
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime
from tests.support.random_traces import random_trace

SETTINGS = RealSettings(hidden_size=64, expert_ffn=128, attention_bytes=8192, link_bytes_per_s=2e9)
RATES = Hardware(
    "truth", 10**9, 4e9, 3e10, 2e-6, 1.9e9, cpu_cores=1, cpu_memory_bytes_per_s=3e9, cpu_core_flops_per_s=2e10,
    staging_bytes_per_s=5e9, link_contention=1.2, cpu_contention=1.3,
)  # fmt: skip
COSTS = Runtime(
    "truth", link_call_s=7e-6, launch_s=9e-6, kernels_per_expert=1, host_s_per_layer=40e-6, decision_s_per_layer=11e-6
)
TRUTH = Machine(RATES, COSTS)
QUIET, LOUD = Load(0.02, 0.0), Load(0.6, 0.1)


def expert_s(bytes_: float, tokens: float) -> float:
    """One expert on the true machine."""
    weights = bytes_ / SETTINGS.item_bytes
    return COSTS.launch_s + max(bytes_ / RATES.gpu_memory_bytes_per_s, 2 * weights * tokens / RATES.gpu_flops_per_s)


def samples_of_a_round(number: int, load: Load, times: float) -> list[Sample]:
    """What ``Bench.all`` and ``decisions`` would have measured, all of it ``times`` too long."""
    size = float(SETTINGS.expert_bytes)
    cpu_s = {
        n: max(size / RATES.cpu_memory_bytes_per_s, 2 * size / 4 * n / RATES.cpu_core_flops_per_s) for n in CPU_TOKENS
    }
    copy_s = RATES.link_latency_s + size / RATES.link_bytes_per_s
    values_by_kind = [
        ("cpu_beside_copy", {"seconds": RATES.cpu_contention * cpu_s[1]}),
        ("copy_beside_cpu", {"seconds": RATES.link_contention * copy_s}),
        ("decision", {"seconds": COSTS.decision_s_per_layer}),
        ("readback", {"seconds": 1e-7}),
    ]
    for share in SHARES:
        part = {"bytes": size * share}
        values_by_kind += [
            ("copy", part | {"seconds": RATES.link_latency_s + size * share / RATES.link_bytes_per_s}),
            ("pageable", part | {"seconds": 1e-6 + size * share / RATES.staging_bytes_per_s}),
            ("expert", part | {"tokens": 1.0, "seconds": expert_s(size * share, 1)}),
        ]
    for n in TOKENS[1:]:
        values_by_kind.append(("expert", {"bytes": size, "tokens": float(n), "seconds": expert_s(size, n)}))
    for n in CPU_TOKENS:
        values_by_kind.append(("cpu", {"tokens": float(n), "seconds": cpu_s[n]}))
    return [
        Sample(kind, number, {k: v * times if k == "seconds" else v for k, v in values.items()}, load)
        for kind, values in values_by_kind
    ]


def calibrated_truth(rounds: int = 4, loud_rounds: int = 0) -> Measured:
    """A calibration on the true machine; in ``loud_rounds`` more rounds everything took three times as long."""
    trace = random_trace(2, 4, 16, 3, prompts=(6, 5), decodes=(90, 80))
    config = CalibrationConfig()
    measured = Measured(config, SETTINGS, two_replays(trace, config, SETTINGS), wall_s=1.0)
    size = SETTINGS.expert_bytes
    took = {name: simulated_ns(replay, TRUTH) for name, replay in measured.replays.items()}
    for number in range(rounds + loud_rounds):
        load, times = (QUIET, 1.0) if number < rounds else (LOUD, 3.0)
        for name in measured.replays:
            steps = np.arange(7 + 15 * number, 7 + 15 * (number + 1))
            values = {
                "attention_s": 3e-6,
                "expert_s": expert_s(size, 1),
                "step_s": float(took[name][steps].mean()) * 1e-9,
            }
            if name == "misses":
                values["copy_s"] = RATES.link_latency_s + size / RATES.link_bytes_per_s
            values = {key: value * times for key, value in values.items()}
            sample = Sample(name, number % 3, values, replace(load))
            measured.samples.append(sample)
            measured.portions.append(Portion(name, sample, steps, (took[name][steps] * times).astype(np.int64), 0, 15))
        measured.samples += samples_of_a_round(number % 3, replace(load), times)
    return measured
