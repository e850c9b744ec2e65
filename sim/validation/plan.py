"""Which settings are run for real and simulated: policies, capacities, traces; and which runs calibrate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from policies.base import Policy
from sim.assembly.build import make_policy, open_trace
from sim.assembly.compose import compose_run
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.config import RunConfig, TraceConfig, validate
from sim.execution.settings import RealSettings
from sim.machine.capacity import CacheConfig
from sim.machine.machine import Machine
from sim.workload.steps import Schedule
from traces.errors import UserError
from traces.format.trace import Trace

REQUESTS = 2
"""Of each run: the first fills the slots and is only decided, tokens of the second are measured."""
WARM_TOKENS = 8
"""Of the second request, executed without clock too."""
MOSTLY_HITS, MOSTLY_MISSES = "calibrate_hits", "calibrate_misses"
"""Names of the two calibrating settings: their requests and capacities are in no other setting."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One policy at one capacity on two requests of a trace. ``overrides``: of the policy, as `sim run` takes them."""

    name: str
    overrides: tuple[str, ...]
    slots: int
    first_request: int = 0
    trace: str | None = None
    """Path of a trace; null: the embedded one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what is measured."""

    real: RealSettings
    settings: tuple[Setting, ...]
    calibration: tuple[Setting, Setting]
    repeats: int
    tokens: int
    pairs: tuple[tuple[str, str], ...] = field(default=())
    """(without, with) prefetch: settings whose difference is reported as a gain."""

    def setting(self, name: str) -> Setting:
        """A setting by name, calibrating ones included."""
        return next(setting for setting in (*self.settings, *self.calibration) if setting.name == name)

    def as_json(self) -> dict[str, Any]:
        """Plain values, to be stored beside the results."""
        return dict(json.loads(json.dumps(asdict(self))))

    def fingerprint(self) -> str:
        """Hash of the whole plan."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]


def plan_from_json(values: Any, path: Path) -> Plan:
    """The plan that ``as_json`` wrote into the file. Raises: UserError where it is none."""

    def settings_of(name: str) -> tuple[Setting, ...]:
        return tuple(
            validate(Setting, fields | {"overrides": tuple(fields["overrides"])}, f"{path}: {name}: ")
            for fields in values[name]
        )

    try:
        hits, misses = settings_of("calibration")
        plan = {"real": validate(RealSettings, values["real"], f"{path}: "), "calibration": (hits, misses)}
        plan |= {"settings": settings_of("settings"), "repeats": values["repeats"], "tokens": values["tokens"]}
        pairs = tuple((str(without), str(with_prefetch)) for without, with_prefetch in values["pairs"])
        return validate(Plan, plan | {"pairs": pairs}, f"{path}: ")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is broken: it holds no plan of a validation: {type(error).__name__} {error}"
        ) from error


LFU = ("policy=lru", "policy/eviction=lfu")
RANDOM = ("policy=lru", "policy/eviction=random")
NEXT_LAYER = ("policy=lru", "policy/prediction=lookahead", "policy/prefetch=top_n")
EXACT_PREFETCH = ("policy=lru", "policy/prediction=oracle", "policy/prefetch=top_6")
IMPORTANCE = ("policy=importance", "policy/assignment=link_only")
NO_PREFETCH = ("policy/prediction=none", "policy/prefetch=none")
SETTINGS = (
    Setting("lru_12", ("policy=lru",), 12),
    Setting("lru_20", ("policy=lru",), 20),
    Setting("lru_32", ("policy=lru",), 32),
    Setting("lru_40", ("policy=lru",), 40, 8),
    Setting("lfu_12", LFU, 12, 8),
    Setting("lfu_20", LFU, 20),
    Setting("random_20", RANDOM, 20, 8),
    Setting("belady_admit_20", ("policy=belady_admit",), 20),
    Setting("importance_16", (*IMPORTANCE, *NO_PREFETCH), 16),
    Setting("importance_prefetch_16", IMPORTANCE, 16),
    Setting("importance_prefetch_28", IMPORTANCE, 28, 8),
    Setting("lookahead_20", NEXT_LAYER, 20),
    Setting("lookahead_32", NEXT_LAYER, 32),
    Setting("exact_prefetch_12", EXACT_PREFETCH, 12),
    Setting("exact_prefetch_20", EXACT_PREFETCH, 20),
    Setting("exact_prefetch_32", EXACT_PREFETCH, 32),
)
"""On the embedded trace (64 experts per layer)."""
PAIRS = (
    ("lru_12", "exact_prefetch_12"),
    ("lru_20", "exact_prefetch_20"),
    ("lru_32", "exact_prefetch_32"),
    ("lru_20", "lookahead_20"),
    ("importance_16", "importance_prefetch_16"),
)
CALIBRATION = (
    Setting(MOSTLY_HITS, ("policy=lru",), 48, 16),
    Setting(MOSTLY_MISSES, ("policy=lru",), 8, 16),
)
SHARES_OF_OTHER_TRACE = {
    "lru": (("policy=lru",), (0.25, 0.5)),
    "lfu": (LFU, (0.375,)),
    "exact_prefetch": (EXACT_PREFETCH, (0.25,)),
}
"""On another trace: policy -> overrides and shares of its experts."""


def make_plan(real: RealSettings, repeats: int, tokens: int, other_trace: str | None = None) -> Plan:
    """The plan of the embedded trace, and of another trace where one is named."""
    settings = list(SETTINGS)
    if other_trace is not None:
        experts = whole_trace(other_trace).num_experts
        for name, (overrides, shares) in SHARES_OF_OTHER_TRACE.items():
            for share in shares:
                slots = max(1, round(share * experts))
                settings.append(Setting(f"other_{name}_{slots}", overrides, slots, 0, other_trace))
    return Plan(real, tuple(settings), CALIBRATION, repeats, tokens, PAIRS)


@cache
def whole_trace(path: str | None) -> Trace:
    """The embedded trace, or the one at ``path``."""
    return open_trace(TraceConfig(embedded="demo", path=path))


@cache
def policy_of(overrides: Sequence[str]) -> Policy:
    """The policy that overrides of `sim run` compose."""
    return make_policy(compose_run(*overrides).policy)


def trace_of(setting: Setting) -> Trace:
    """The requests of a setting."""
    return whole_trace(setting.trace).select_requests(REQUESTS, setting.first_request)


def steps_of(setting: Setting, tokens: int) -> tuple[int, int]:
    """(steps before the measured ones, all steps): a request, the prompt of the next, some of its tokens.

    Raises: UserError where the second request is too short.
    """
    trace = trace_of(setting)
    first, both = (Schedule(part, 1).num_steps() for part in (trace.select_requests(1), trace))
    prompt = int(Schedule(trace.select_requests(1, 1), 1).num_steps() > 0 and trace.prompt_len[1] > 0)
    skipped = first + prompt + WARM_TOKENS
    if both - skipped < 1:
        raise UserError(f"tokens={tokens}: the second request of {setting.name} has only {both - first} steps")
    return skipped, min(both, skipped + tokens)


def replay_of(plan: Plan, setting: Setting, machine: Machine, timeline: bool = False) -> Replay:
    """A replay of a setting with the sizes of the real run."""
    trace, cache = trace_of(setting), CacheConfig(slots_per_layer=setting.slots)
    run = RunConfig(engine="compiled", timeline=timeline, timeline_steps=None)
    return assemble(trace, DeviceSetup(policy_of(setting.overrides), machine, cache, run), plan.real.geometry(trace))


def real_settings(plan: Plan, setting: Setting) -> RealSettings:
    """The settings of one real run."""
    skipped, steps = steps_of(setting, plan.tokens)
    return replace(plan.real, skip_steps=skipped, steps=steps)
