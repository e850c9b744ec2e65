"""Real runs that never ran: what the engine predicts on a machine of known constants, with noise as wanted."""

from __future__ import annotations

import numpy as np

from sim.engine.decision.counters import COUNTERS
from sim.execution.settings import RealSettings
from sim.machine.parts import PARTS
from sim.validation.in_situ import Constants, machine
from sim.validation.plan import CALIBRATION, LFU, Plan, Setting
from sim.validation.raw_runs import RawRun
from sim.validation.simulate import simulate

REAL = RealSettings(hidden_size=64, expert_ffn=96, attention_bytes=40_000, link_bytes_per_s=2e9)
TRUE = Constants(2e-5, 1e-6, 3e-5, 2e9, host_s=8e-5, call_s=6e-6, wake_s=4e-6)
EXACT = ("policy=lru", "policy/prediction=oracle", "policy/prefetch=top_6")
SETTINGS = (
    Setting("lru_12", ("policy=lru",), 12),
    Setting("lru_32", ("policy=lru",), 32, 8),
    Setting("lfu_20", LFU, 20),
    Setting("exact_12", EXACT, 12),
)
PLAN = Plan(REAL, SETTINGS, CALIBRATION, repeats=3, tokens=30, pairs=(("lru_12", "exact_12"),))


def fake_run(
    setting: Setting, index: int, *, slower: float = 1.0, disturbance: float | None = 0.0, plan: Plan = PLAN
) -> RawRun:
    """One run of a machine of the constants TRUE, all times ``slower`` times as long."""
    simulated = simulate(plan, setting, machine(plan, TRUE), layers=True)
    assert simulated.layer_ns is not None
    columns = {name: simulated.counts[:, i] for i, name in enumerate(COUNTERS)}
    columns |= {f"{name}_ns": np.rint(simulated.parts_ns[:, i] * slower) for i, name in enumerate(PARTS)}
    # The engine books what attention and experts take beyond one rate of reading to launches and the host.
    moved_ns = simulated.part_ns("launch")
    columns["expert_ns"] = np.rint((simulated.part_ns("expert") + moved_ns) * slower)
    columns["attention_ns"] = np.full(len(moved_ns), TRUE.attention_s * 1e9 * 6 * slower)
    steps = len(simulated.latency_ns)
    columns |= {
        "step": np.arange(steps),
        "latency_ns": np.rint(simulated.latency_ns * slower),
        "run_queue_ns": np.zeros(steps),
        "copy_run_queue_ns": np.zeros(steps),
    }
    copies = int(simulated.count("demand_copies").sum() + simulated.count("prefetch_copies").sum())
    return RawRun(
        setting=setting.name,
        index=index,
        disturbance=disturbance,
        waited_share=0.0,
        layer_ns=tuple((simulated.layer_ns.mean(axis=0) * slower).tolist()),
        copies=copies,
        copy_ns=plan.real.expert_bytes / 2e9 * 1e9 + TRUE.wake_s * 1e9,
        label="EMULATED",
        ended_at="2026-01-01 00:00:00",
        columns=columns,
    )


def fake_runs(noise: float = 0.0, repeats: int = 3, seed: int = 0) -> list[RawRun]:
    """All runs of PLAN, each as a whole slower or faster by a normal draw of this relative size."""
    rng = np.random.default_rng(seed)
    return [
        fake_run(setting, index, slower=1 + noise * rng.standard_normal())
        for index in range(repeats)
        for setting in (*SETTINGS, *CALIBRATION)
    ]
