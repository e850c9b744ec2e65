"""One closed-loop evaluation: the objects it consists of, and how a configuration becomes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from policies.base import Policy
from policies.needs import Need
from sim.assembly.replay import DeviceSetup, Notes, Replay, assemble
from sim.config import TraceConfig
from sim.live.router_output import Reads
from sim.live.weights import INHERIT, OWN, GateRule, substitutes
from sim.machine.geometry import resolve_geometry
from sim.quality.calibration import record_windows
from sim.quality.conditions import check_closed_loop, check_parallel, parallel_obstacle
from sim.quality.drive import DROP, RANDOM
from sim.quality.lines import Lines, line_items
from sim.quality.loop import Loop, Variant
from sim.quality.modelled_device import ModelledDevice
from sim.quality.settings import QualityConfig, StudyConfig
from sim.quality.windows import Windows, make_windows
from traces.format.trace import Geometry, Trace
from traces.recording.loading import LoadedModel
from traces.recording.moe_layers import family_name

POLICY = "policy"
"""Name of the variant that executes the policy's own decisions."""
DEMO_SIZES = "deepseek_moe_16b"
ALL_ACCEPTED = (
    "a step decodes consecutive positions of the text, as where all drafts are accepted; rejected ones would "
    "have a say in what the rules decide"
)
SPEC_WINDOWS = 2
"""Windows recorded for sizes and gate weights where no rule learns."""


@dataclass(slots=True)
class Study:
    """A model, a policy in it, and the text on which its quality is measured."""

    loop: Loop
    template: Replay
    """A replay of what rules learned from, which never runs: it holds policy, machine, sizes and capacity."""
    windows: Windows
    config: StudyConfig
    parallel: bool
    variants: tuple[Variant, ...]
    lines: Lines
    notes: Notes = field(default_factory=Notes)
    carried: dict[str, Any] = field(default_factory=dict)
    """State of the device after each variant's last window, where the cache is not reset."""


def check_before_loading(setup: DeviceSetup, config: StudyConfig) -> None:
    """Raises: UserError for what cannot run whatever the model is."""
    check_closed_loop(setup.policy, config.quality.step_tokens)
    if config.quality.mode == "parallel":
        check_parallel(setup.policy, setup.cache)
    config.check()


def make_study(
    loaded: LoadedModel,
    setup: DeviceSetup,
    config: StudyConfig,
    windows: Windows | None = None,
    default_sizes: str | None = None,
    recorded: tuple[Trace, Any] | None = None,
) -> Study:
    """Objects of one evaluation, ready to run. ``windows``: evaluated ones, then ``fit_windows`` to learn from.

    ``default_sizes``: the model of conf/model that ``sizes=auto`` takes; None: the model's own. ``recorded``: what
    ``record_windows`` gave for the windows to learn from, where it has run already.

    Raises: UserError where policy, model, text or machine do not fit.
    """
    check_before_loading(setup, config)
    policy, quality = setup.policy, config.quality
    learns = learns_from_text(policy)
    num_fitted = quality.fit_windows if learns else SPEC_WINDOWS
    total = quality.windows + num_fitted
    if windows is None:
        windows = make_windows(quality.prompts, loaded.tokenizer, total, quality.tokens, quality.text_seed)
    fitted = windows.part(quality.windows, total)
    trace, layers = recorded or record_windows(loaded, fitted, Need.EXPERT_SIMILARITY in policy.needs(), setup.run.seed)
    geometry, estimated, warnings = sizes_of(trace, quality.sizes, default_sizes)
    setup = replace(setup, run=replace(setup.run, engine="compiled"))
    setup.cache.require_fixed()
    template = assemble(trace, setup, geometry, others=trace)
    gate = GateRule.named(trace.score_function)
    gate.check(quality.weights, family_name(loaded.model))
    live, clock = (ModelledDevice(template.spec, template.durations) for _ in range(2))
    loop = Loop(loaded.model, layers, live, clock, gate, Reads.of(policy), setup.cache.resets, quality.step_tokens)
    parallel = quality.mode == "parallel" or (quality.mode == "auto" and parallel_obstacle(policy, setup.cache) is None)
    variants = make_variants(policy, quality, gate, trace.num_layers, parallel)
    if learns:
        warnings = [
            *warnings,
            f"rules learned from {num_fitted} further windows of the same text, which are not evaluated",
        ]
    if quality.step_tokens > 1:
        warnings = [*warnings, ALL_ACCEPTED]
    evaluated = windows.part(0, quality.windows)
    lines = line_items(evaluated, loaded.tokenizer, config.lines, quality.text_seed)
    if len(lines) < config.lines.items:
        warnings = [*warnings, f"lines.items={config.lines.items}: the windows hold {len(lines)} lines to finish"]
    notes = Notes((*estimated,), (*warnings,))
    return Study(loop, template, evaluated, config, parallel, variants, lines, notes)


def learns_from_text(policy: Policy) -> bool:
    """Whether a rule or the allocation of a policy learns from requests that are not evaluated."""
    learning = {Need.FIT, Need.EXPERT_SIMILARITY} & set(policy.needs())
    return bool(learning) or type(policy.allocation).needs != frozenset()


def sizes_of(trace: Trace, sizes: str, default: str | None) -> tuple[Geometry, list[str], list[str]]:
    """(sizes that the clock uses, ESTIMATED values, warnings) for ``own``, ``auto`` or a model of conf/model."""
    name = default if sizes == "auto" else sizes
    if name in (None, "own"):
        return resolve_geometry(trace, TraceConfig(path="live"), {"name": "auto" if sizes == "auto" else "trace"})
    return resolve_geometry(trace, TraceConfig(embedded="live", geometry=name), {"name": "auto"})


def make_variants(
    policy: Policy, settings: QualityConfig, gate: GateRule, num_layers: int, parallel: bool
) -> tuple[Variant, ...]:
    """The passes to compare: the policy, its contrasts, and the policy in one layer at a time."""
    scheme = settings.weights
    variants = [Variant(POLICY, scheme=scheme)]
    if not substitutes(policy):
        return tuple(variants)
    if settings.contrasts:
        other = INHERIT if scheme == OWN else OWN
        if other == INHERIT or gate.function is not None:
            variants.append(Variant(f"{other}_weights", scheme=other))
        variants += [Variant("drop", DROP, scheme), Variant("random", RANDOM, scheme)]
    per_layer = parallel if settings.per_layer is None else settings.per_layer
    if per_layer:
        variants += [Variant(f"layer_{layer}", scheme=scheme, layer=layer) for layer in range(num_layers)]
    return tuple(variants)
