"""One closed-loop evaluation: the objects it consists of, and how a configuration becomes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from policies.base import Policy
from policies.needs import Need
from sim.assembly.replay import assemble
from sim.config import RunConfig, TimeConfig, TraceConfig
from sim.live.router_output import Reads
from sim.live.weights import INHERIT, OWN, GateRule, substitutes
from sim.machine.capacity import CacheConfig, Pools
from sim.machine.geometry import resolve_geometry
from sim.machine.hardware import Hardware
from sim.quality.calibration import record_windows
from sim.quality.conditions import check_closed_loop, check_parallel, parallel_obstacle
from sim.quality.drive import DROP, RANDOM
from sim.quality.loop import Loop, Variant
from sim.quality.modelled_device import ModelledDevice
from sim.quality.settings import ClozeConfig, GenerationConfig, QualityConfig
from sim.quality.windows import Windows, make_windows
from traces.format.trace import Geometry, Trace
from traces.recording.loading import LoadedModel
from traces.recording.moe_layers import family_name

POLICY = "policy"
"""Name of the variant that does what the policy says."""
DEMO_SIZES = "deepseek_moe_16b"
SPEC_WINDOWS = 2
"""Windows that show sizes and weights where no rule learns."""


@dataclass(slots=True)
class Study:
    """A model, a policy in it, and the text on which its quality is measured."""

    loop: Loop
    policy: Policy
    hardware: Hardware
    geometry: Geometry
    pools: Pools
    windows: Windows
    settings: QualityConfig
    cloze: ClozeConfig
    generation: GenerationConfig
    parallel: bool
    variants: tuple[Variant, ...]
    trace: Trace
    """What rules learned from, and how the router makes weights."""
    estimated: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    carried: dict[str, Any] = field(default_factory=dict)
    """State of the device after each variant's last window, where the cache is not reset."""


def check_before_loading(policy: Policy, cache: CacheConfig, settings: QualityConfig) -> None:
    """Raises: UserError for what cannot run whatever the model is."""
    check_closed_loop(policy)
    if settings.mode == "parallel":
        check_parallel(policy, cache)


def make_study(
    loaded: LoadedModel,
    policy: Policy,
    hardware: Hardware,
    settings: QualityConfig,
    cache: CacheConfig | None = None,
    run: RunConfig | None = None,
    time: TimeConfig | None = None,
    cloze: ClozeConfig | None = None,
    generation: GenerationConfig | None = None,
    windows: Windows | None = None,
    default_sizes: str | None = None,
    recorded: tuple[Trace, Any] | None = None,
) -> Study:
    """Objects of one evaluation, ready to run. ``windows``: evaluated ones, then ``fit_windows`` to learn from.

    ``default_sizes``: whose sizes ``sizes=auto`` takes; None: the model's own. ``recorded``: what ``record_windows``
    gave for the windows to learn from, where it is known already.

    Raises: UserError where policy, model, text or machine do not fit.
    """
    cache, run, time = cache or CacheConfig(reset="request"), run or RunConfig(engine="compiled"), time or TimeConfig()
    cloze, generation = cloze or ClozeConfig(), generation or GenerationConfig()
    check_before_loading(policy, cache, settings)
    cloze.check(settings.windows, settings.tokens)
    generation.check(settings.windows, settings.tokens)
    needs = policy.needs()
    learns = bool({Need.FIT, Need.EXPERT_SIMILARITY} & set(needs)) or type(policy.allocation).needs != frozenset()
    extra = settings.fit_windows if learns else SPEC_WINDOWS
    if windows is None:
        windows = make_windows(
            settings.prompts, loaded.tokenizer, settings.windows + extra, settings.tokens, settings.text_seed
        )
    chosen, others = windows.part(0, settings.windows), windows.part(settings.windows, settings.windows + extra)
    trace, layers = recorded or record_windows(loaded, others, Need.EXPERT_SIMILARITY in needs, run.seed)
    geometry, estimated, warnings = sizes_of(trace, settings.sizes, default_sizes)
    template = assemble(trace, policy, hardware, geometry, cache, replace(run, engine="compiled"), time, others=trace)
    gate = GateRule.named(trace.score_function)
    gate.check(settings.weights, family_name(loaded.model))
    spec, durations = template.spec, template.durations
    live, clock = (ModelledDevice(spec, durations) for _ in range(2))
    loop = Loop(loaded.model, layers, live, clock, gate, Reads.of(policy), cache.resets)
    parallel = settings.mode == "parallel" or (settings.mode == "auto" and parallel_obstacle(policy, cache) is None)
    if learns:
        warnings = [*warnings, f"rules learned from {extra} further windows of the same text, which are not evaluated"]
    return Study(
        loop, policy, hardware, geometry, template.pools, chosen, settings, cloze, generation, parallel,
        make_variants(policy, settings, gate, spec.num_layers, parallel), trace, estimated, warnings,
    )  # fmt: skip


def sizes_of(trace: Trace, sizes: str, default: str | None) -> tuple[Geometry, list[str], list[str]]:
    """Whose bytes the clock moves: ``own``, those of a model of conf/model, or ``auto``."""
    name = default if sizes == "auto" else sizes
    if name in (None, "own"):
        return resolve_geometry(trace, TraceConfig(path="live"), {"name": "auto" if sizes == "auto" else "trace"})
    return resolve_geometry(trace, TraceConfig(embedded="live", geometry=name), {"name": "auto"})


def make_variants(
    policy: Policy, settings: QualityConfig, gate: GateRule, num_layers: int, parallel: bool
) -> tuple[Variant, ...]:
    """The passes to compare: the policy, its contrasts, and the policy in one layer at a time."""
    scheme = settings.weights
    found = [Variant(POLICY, scheme=scheme)]
    if not substitutes(policy):
        return tuple(found)
    if settings.contrasts:
        other = INHERIT if scheme == OWN else OWN
        if other == INHERIT or gate.function is not None:
            found.append(Variant(f"{other}_weights", scheme=other))
        found += [Variant("drop", DROP, scheme), Variant("random", RANDOM, scheme)]
    per_layer = parallel if settings.per_layer is None else settings.per_layer
    if per_layer:
        found += [Variant(f"layer_{layer}", scheme=scheme, layer=layer) for layer in range(num_layers)]
    return tuple(found)
