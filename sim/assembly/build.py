"""The one place where a configuration becomes objects: trace, policy, machine, capacity, engine."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from policies.base import Allocation, Policy
from policies.needs import Need
from sim.assembly.depth import check_repeatable, missing_layers, to_depth
from sim.assembly.needs import check_routing
from sim.assembly.notes import describe_replay
from sim.assembly.replay import DeviceSetup, Notes, Replay, assemble
from sim.assembly.rule_class import about_field, check_class, check_knobs, fault_of
from sim.assembly.trial import try_rules
from sim.cards.synthesis import Wish, synthetic_trace
from sim.config import (
    PrefillConfig,
    RunConfig,
    SessionConfig,
    SpeculateConfig,
    TimeConfig,
    TraceConfig,
    suggest,
    to_plain_dict,
    validate,
)
from sim.engine.decision.device import BASES
from sim.machine.capacity import CacheConfig
from sim.machine.devices import DevicesConfig
from sim.machine.geometry import resolve_geometry
from sim.machine.hardware import hardware_from_config
from sim.machine.host_store import HostConfig
from sim.machine.machine import Machine
from sim.machine.model import dimensions_from_config, model_names
from sim.machine.model import geometry as sizes_of
from sim.machine.runtime import OWN, runtime_from_config
from sim.predictors.checkpoint import checkpoint_of, require_trained
from sim.predictors.split import count_learned_last
from sim.rule_files import find_class
from sim.shipped_rules import is_shipped
from sim.workload.chats import as_session
from traces.demo.stand_in import stand_in
from traces.embedded import embedded_trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.format.sampling import FEWEST_CLUSTERS
from traces.format.trace import Trace

PARTS: dict[str, type] = BASES | {"allocation": Allocation}
GROUPS = (
    "trace", "model", "hardware", "runtime", "policy", "engine", "system", "cache", "time", "session", "speculate",
    "prefill", "host", "devices", "sweep",
)  # fmt: skip
LATER = ("session", "speculate", "prefill", "host", "devices")
"""Groups that runs of earlier versions do not have."""
KNOBS = tuple(knob.name for knob in fields(RunConfig) if knob.name != "engine")


def check_keys(config: DictConfig) -> None:
    """Raises UserError for a top-level key that is missing or that nobody reads."""
    for name in config:
        if name not in (*GROUPS, *KNOBS):
            raise UserError(f"{name!s} is not a key of the configuration: {suggest(name, (*GROUPS, *KNOBS))}")
    for name in (*GROUPS, *KNOBS):
        if name not in config and name not in LATER:
            raise UserError(f"{name} is missing from the configuration")
    for name in (*(f"policy.{part}" for part in BASES), "policy.name", "policy.residency", "engine.name"):
        if OmegaConf.select(config, name) is None:
            raise UserError(f"{name} is missing from the configuration")


def open_trace(config: TraceConfig) -> Trace:
    """The configured trace as recorded, whole or only the requests of some labels, or drawn from a card. A process
    opens a file once.

    Raises: UserError for a file that is no trace, for labels that no request carries, and for ``shape: model``, which
    only a replay on a device knows how to make.
    """
    if config.shape == "card":
        return synthetic_trace(wish_of(config))
    if config.shape != "own":
        raise UserError(f"trace.shape={config.shape}: only `run` on a device makes a stand-in; here it must be own")
    path = embedded_trace_path(config.embedded or "demo") if config.path is None else Path(config.path)
    labels = None if config.labels is None else tuple(config.labels)
    try:
        status = path.stat()
    except OSError:
        return read_trace(path)  # says what is wrong
    return _open(path, config.path is not None, labels, status.st_mtime_ns, status.st_size)


def wish_of(config: TraceConfig) -> Wish:
    """What a `trace` group of shape `card` asks for."""
    return Wish(
        str(config.card),
        config.requests,
        config.tokens,
        config.prompt_len,
        config.layers,
        config.experts,
        config.top_k,
        config.seed,
        (config.fit_requests or 0) if config.requests is not None else 0,
    )


@lru_cache(maxsize=2)
def _open(path: Path, check_rows: bool, labels: tuple[str, ...] | None, changed_ns: int, size: int) -> Trace:
    trace = read_trace(path, check_rows=check_rows)
    return trace if labels is None else trace.select_labels(labels)


def open_requests(config: Any, seed: int = 0) -> Trace:
    """The requests that a `trace` group chooses, for what replays them and learns from no others.

    `seed`: of `trace.sample`.
    """
    trace_config = validate(TraceConfig, to_plain_dict(config, "trace"), "trace.")
    if trace_config.fit_on != "others":
        raise UserError(f"trace.fit_on={trace_config.fit_on}: nothing learns from requests here; use others")
    trace = open_trace(trace_config)
    if trace_config.sample is not None:
        return trace.sample_requests(trace_config.sample, seed)
    return trace if trace_config.requests is None else trace.select_requests(trace_config.requests)


def split_requests(
    trace: Trace, config: TraceConfig, policy: Policy, seed: int = 0, profiled: bool = False
) -> tuple[Trace, Trace | None, list[str]]:
    """(the requests to replay, those to learn from or None, notes); the two overlap only as `trace.fit_on` says.

    `seed`: of `trace.sample`; `profiled`: `cache.start=profile` learns from requests, too.

    Raises: UserError where the trace has too few requests.
    """
    if config.fit_on != "others":
        return split_heads(trace, config, policy, seed, profiled)
    total, held = trace.num_requests, config.fit_requests
    for name, asked in (("requests", config.requests), ("sample", config.sample)):
        if asked is not None and asked > total - (held or 0):
            less = f" of which trace.fit_requests={held} are held out" if held else ""
            raise UserError(f"trace.{name}={asked}: the trace has {total} requests{less}")
    if held is not None and held >= total:
        raise UserError(f"trace.fit_requests={held}: must be below the trace's {total} requests")
    learner, notes = learner_of(policy, profiled), []
    learns = learner is not None
    if held is None and config.requests is not None:
        held = total - config.requests
    elif held is None:
        held = count_held_out(trace, policy, learns)
        if held and total > 1:
            notes = [
                f"{learner or policy.needs()[Need.FORECAST]} learned from the last {held} requests, which are not "
                f"replayed: compare with "
                f"policies run with trace.fit_requests={held}"
            ]
    if learns and (held == 0 or total == held):
        raise UserError(
            f"policy {policy.name}: {learner} learns from requests that are not replayed, and there are "
            "none: give trace.fit_requests=N, or a trace with more requests"
        )
    if config.sample is not None:
        replayed = trace.sample_requests(config.sample, seed, total - held)
    else:
        replayed = trace.select_requests(config.requests or total - held)
        notes += few_clusters(trace, replayed) if config.requests is not None else []
    return replayed, trace.select_requests(held, total - held) if learns else None, notes


def few_clusters(trace: Trace, first: Trace) -> list[str]:
    """Whether the first requests of a trace come from fewer data sets or conversations than as many of all would."""
    if trace.request_labels is None or first.request_labels is None:
        return []
    here, known = len(set(first.request_labels)), len(set(trace.request_labels))
    count, could = first.num_requests, min(first.num_requests, known)
    if here == could or (here >= FEWEST_CLUSTERS and 2 * here > could):
        return []
    return [
        f"the first {count} requests come from {here} of the {known} data sets or conversations that the trace names: "
        f"trace.sample={count} takes as many from all"
    ]


def learner_of(policy: Policy, profiled: bool) -> str | None:
    """What learns from requests before a run, in words; None if nothing does."""
    return policy.needs().get(Need.FIT) or ("cache.start=profile" if profiled else None)


def split_heads(
    trace: Trace, config: TraceConfig, policy: Policy, seed: int, profiled: bool
) -> tuple[Trace, Trace | None, list[str]]:
    """As `split_requests`, where rules learn from the beginnings of the very requests that are replayed.

    Raises: UserError where nothing learns, or requests would be held out as well.
    """
    learner = learner_of(policy, profiled)
    if learner is None:
        raise UserError(
            f"trace.fit_on={config.fit_on}: nothing of policy {policy.name} learns before a run; use others"
        )
    if config.fit_requests:
        raise UserError(
            f"trace.fit_requests={config.fit_requests} holds requests out to learn from, and trace.fit_on="
            f"{config.fit_on} learns from those that are replayed: give one of them"
        )
    replayed = trace
    if config.sample is not None:
        replayed = trace.sample_requests(config.sample, seed)
    elif config.requests is not None:
        replayed = trace.select_requests(config.requests)
    if config.fit_on == "prompts":
        note = "the prompts of the requests that are replayed: only their decode steps are new to it"
        return replayed, replayed.take_prompts(), [f"{learner} learned from {note}"]
    assert config.fit_tokens is not None
    note = f"the first {config.fit_tokens} tokens of each request that is replayed, which are not new to it"
    return replayed, replayed.take_first_tokens(config.fit_tokens), [f"{learner} learned from {note}"]


def count_held_out(trace: Trace, policy: Policy, learns: bool) -> int:
    """How many of the last requests a policy learns or has learned from: a quarter, or all that its predictor saw."""
    needs = policy.needs()
    quarter = -(-trace.num_requests // 4) if learns else 0
    if Need.FORECAST not in needs:
        return quarter
    return max(quarter, count_learned_last(trace, checkpoint_of(require_trained(policy.prediction)).training))


def make_part(name: str, config: DictConfig) -> Any:
    """One part of a policy from its ``_target_`` and knobs."""
    values = to_plain_dict(config, f"policy.{name}")
    target = values.pop("_target_", None)
    if not isinstance(target, str):
        raise UserError(f"policy.{name}._target_={target}: must name a class, as policies.{name}.<rule>.<Class>")
    rule = find_class(target, PARTS[name], f"policy.{name}._target_")
    if is_shipped(rule):
        return validate(rule, values, f"policy.{name}.")
    check_class(rule)
    check_knobs(rule, values)
    try:
        return validate(rule, values, f"policy.{name}.")
    except UserError as error:
        raise UserError(f"{error} ({rule.__name__}, {about_field(rule, error)})") from error
    except Exception as error:  # of its own __post_init__, or of annotations that name nothing
        raise UserError(fault_of(rule, error)) from error


POLICY_KEYS = (*PARTS, "name", "residency", "write_back", "scope", "start", "runtime", "alpha")


def make_policy(config: DictConfig) -> Policy:
    """The policy of the ``policy`` group. Raises: UserError for a key that nobody reads, as a slip in a file is."""
    for name in config:
        if name not in POLICY_KEYS:
            raise UserError(f"policy.{name!s} is not a key of a policy: {suggest(name, POLICY_KEYS)}")
    built = {name: make_part(name, config[name]) for name in PARTS if name in BASES or config.get(name) is not None}
    return Policy(
        name=str(config.name),
        residency=str(config.residency),
        write_back=str(config.get("write_back", "none")),
        scope=str(config.get("scope", "layer")),
        start=str(config.get("start", "cold")),
        runtime=None if config.get("runtime") is None else str(config.runtime),
        **built,
    )


def read_device(config: DictConfig, run: RunConfig) -> DeviceSetup:
    """The objects of the groups `policy`, `hardware`, `runtime`, `cache` and `time`.

    Raises: UserError where one is no group.
    """
    policy = make_policy(config.policy)
    hardware = hardware_from_config(to_plain_dict(config.hardware, "hardware"))
    runtime = runtime_from_config(to_plain_dict(config.runtime, "runtime"), policy.runtime)
    return DeviceSetup(
        cache=validate(CacheConfig, to_plain_dict(config.cache, "cache"), "cache."),
        time=validate(TimeConfig, to_plain_dict(config.time, "time"), "time."),
        speculate=read_speculation(config),
        host=read_host(config),
        devices=read_devices(config),
        policy=policy,
        machine=Machine(hardware, runtime),
        own_runtime=config.runtime.get("name") == OWN,
        run=run,
    )


def read_session(config: DictConfig) -> SessionConfig:
    """The group `session`; nothing of it where a configuration has none.

    Raises: UserError where a knob of it is not known or out of range.
    """
    if "session" not in config:
        return SessionConfig()
    return validate(SessionConfig, to_plain_dict(config.session, "session"), "session.")


def read_prefill(config: DictConfig) -> PrefillConfig:
    """The group `prefill`; nothing of it where a configuration has none. Raises: UserError as above."""
    if "prefill" not in config:
        return PrefillConfig()
    return validate(PrefillConfig, to_plain_dict(config.prefill, "prefill"), "prefill.")


def read_host(config: DictConfig) -> HostConfig:
    """The group `host`; nothing of it where a configuration has none. Raises: UserError as above."""
    if "host" not in config:
        return HostConfig()
    return validate(HostConfig, to_plain_dict(config.host, "host"), "host.")


def read_devices(config: DictConfig) -> DevicesConfig:
    """The group `devices`; one GPU where a configuration has none. Raises: UserError as above."""
    if "devices" not in config:
        return DevicesConfig()
    return validate(DevicesConfig, to_plain_dict(config.devices, "devices"), "devices.")


def in_session(setup: DeviceSetup, session: SessionConfig) -> DeviceSetup:
    """The set-up between whose turns happens what ``session`` says: experts that are lost are a cache that is reset."""
    lost = session.cuts and not session.keeps_experts and not setup.cache.resets
    return replace(setup, session=session, cache=replace(setup.cache, reset="request") if lost else setup.cache)


def read_speculation(config: DictConfig) -> SpeculateConfig:
    """The group `speculate`; no drafts where a command's configuration has none. Raises: UserError as above."""
    if "speculate" not in config:
        return SpeculateConfig()
    return validate(SpeculateConfig, to_plain_dict(config.speculate, "speculate"), "speculate.")


def in_shape_of(
    model: dict[str, Any], trace: Trace, others: Trace | None, gate_slope: float
) -> tuple[Trace, Trace | None, str]:
    """(stand-ins for both in the shape of a ``model`` group, what a reader must know).

    Raises: UserError where the group states no sizes.
    """
    if "expert_ffn" not in model:
        raise UserError(
            f"trace.shape=model needs the sizes of a model, and model={model.get('name')} states none: "
            f"choose one of {', '.join(model_names())}"
        )
    shape = sizes_of(dimensions_from_config(model))
    note = (
        f"the routing is SYNTHETIC: scores of {trace.geometry.model} in the shape of {shape.model} "
        f"({shape.num_layers} MoE layers, top {shape.top_k} of {shape.num_experts})"
    )
    made = stand_in(trace, shape, gate_slope)
    return made, None if others is None else stand_in(others, shape, gate_slope), note


def build(config: DictConfig, given: Trace | None = None) -> Replay:
    """Objects for one replay, of the configured trace or of requests that are ``given`` in memory.

    Raises: UserError before any work where the configuration cannot be run.
    """
    for name in GROUPS:
        if name in config or name not in LATER:
            to_plain_dict(config.get(name), name)
    check_keys(config)
    knobs = {name: config[name] for name in KNOBS} | {"engine": config.engine.name}
    setup = in_session(read_device(config, validate(RunConfig, knobs)), read_session(config))
    setup = replace(setup, prefill=read_prefill(config))
    trace_config = validate(TraceConfig, to_plain_dict(config.trace), "trace.")
    model = to_plain_dict(config.model)
    recorded = open_trace(trace_config.recorded()) if given is None else given
    check_routing(setup.policy, recorded)
    shaped: list[str] = []
    trace, others, notes = split_requests(recorded, trace_config, setup.policy, setup.run.seed, setup.cache.profiled)
    if trace_config.shape == "model":
        trace, others, said_of_shape = in_shape_of(model, trace, others, trace_config.gate_slope)
        shaped = [said_of_shape]
    trace, made, said = as_session(trace, setup.session)
    geometry, estimated, warnings = resolve_geometry(trace, trace_config, model)
    if (depth := missing_layers(setup.run.layers, trace, geometry)) is not None:
        check_repeatable(setup.policy)
        trace, others, repeats = to_depth(trace, others, depth)
        geometry, estimated, warnings = resolve_geometry(trace, trace_config, model)
        estimated = [*estimated, repeats]
    try_rules(trace, setup, geometry, trace_config.as_decode, others)
    replay = assemble(trace, setup, geometry, trace_config.as_decode, others)
    notes_of_run = Notes((*estimated, *shaped, *made), (*warnings, *notes, *said))
    return replace(replay, notes=notes_of_run + describe_replay(replay))
