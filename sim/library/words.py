"""What a replay is given, as the overrides and the configuration of `python -m sim run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict

from policies.base import Allocation, Part, Policy
from sim.assembly.build import PARTS
from sim.group_files import quoted
from sim.rule_files import file_target, part_name, rules_in, target_of
from traces.embedded import embedded_names
from traces.errors import UserError
from traces.format.trace import Trace
from traces.text import printable

PathLike = str | Path
RuleLike = str | Policy | Part | Allocation | type | Mapping[str, Any]
loaded: dict[str, str] = {}
"""Content hash of a trace that was loaded here -> where it came from."""


def trace_words(trace: Trace | PathLike) -> tuple[list[str], Trace | None]:
    """(overrides, the trace if it is in memory)."""
    if not isinstance(trace, Trace):
        return _named_trace(str(trace)), None
    source = loaded.get(trace.content_hash.partition("/")[0])
    return (["trace.path=memory"] if source is None else _named_trace(source)), trace


def _named_trace(name: str) -> list[str]:
    return [f"trace={name}"] if name in embedded_names() else [f"trace.path={quoted(name)}"]


def policy_words(policy: Any) -> tuple[list[str], dict[str, Any]]:
    """(overrides, rules that are objects by part)."""
    if isinstance(policy, str | Path):
        name = str(policy)
        if ".py" not in name:
            return [f"policy={quoted(name)}"], {}
        where = file_target(name)
        if where is None:
            return [f"policy={quoted(name)}"], {}
        rules = [rule for rule in rules_in(where[0], name) if where[1] in (None, rule.__name__)]
        if len(rules) != 1:
            raise UserError(f"policy={name}: the file must define one rule, or name it as {where[0]}:CLASS")
        return ["policy=lru", f"policy/{part_name(rules[0])}={quoted(name)}"], {}
    if isinstance(policy, Mapping):
        words, parts = [f"policy={quoted(str(policy.get('base', 'lru')))}"], {}
        for part, rule in policy.items():
            if part == "base":
                continue
            if part not in PARTS:
                raise UserError(f"policy: {part} is no part: parts are base, {', '.join(PARTS)}")
            if isinstance(rule, str | Path):
                words.append(f"policy/{part}={quoted(str(rule))}")
            else:
                parts[part] = rule
        return words, parts
    rule = policy if isinstance(policy, type) else type(policy)
    if not issubclass(rule, Part | Allocation):
        raise UserError(f"policy={policy!r}: must be a name, a file, a Policy, a rule, or a mapping of parts to rules")
    return ["policy=lru"], {part_name(rule): policy}


def exchanged_parts(policy: Any) -> str:
    """Which parts a policy puts in the place of another's, as ``eviction=fifo``; nothing where it is a whole one."""
    if isinstance(policy, Policy):
        return ""
    if isinstance(policy, Mapping):
        given = {part: rule for part, rule in policy.items() if part != "base"}
    else:
        words, given = policy_words(policy)
        given |= {word[len("policy/") : word.index("=")]: policy for word in words if word.startswith("policy/")}
    return " ".join(f"{part}={_called(rule)}" for part, rule in given.items())


def _called(rule: Any) -> str:
    """The file or name of a rule, or its class."""
    if isinstance(rule, str | Path):
        return str(rule)
    return str((rule if isinstance(rule, type) else type(rule)).__name__)


def put_parts(config: DictConfig, parts: Mapping[str, Any]) -> None:
    for part, rule in parts.items():
        with open_dict(config):
            config.policy[part] = _rule_node(rule, part)


def _rule_node(rule: Any, part: str) -> DictConfig:
    """What a file of `policy/PART` says of a rule."""
    base = PARTS[part]
    cls = rule if isinstance(rule, type) else type(rule)
    if not issubclass(cls, base):
        raise UserError(f"policy.{part}={cls.__name__}: must be derived from {base.__module__}.{base.__name__}")
    target = target_of(cls)
    knobs = {} if isinstance(rule, type) else {knob.name: getattr(rule, knob.name) for knob in fields(rule)}
    return OmegaConf.create({"_target_": target, **knobs})


def policy_node(policy: Policy) -> DictConfig:
    """The group `policy` of a policy that is an object."""
    plain = ("name", "residency", "write_back", "scope", "start", "runtime")
    node: dict[str, Any] = {name: getattr(policy, name) for name in plain}
    node["alpha"] = policy.substitution.band()
    return OmegaConf.create(node | {part: _rule_node(getattr(policy, part), part) for part in PARTS})


def group_words(group: str, value: Any) -> list[str]:
    """Overrides of a machine or runtime."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [f"{group}.{name}={_written(figure)}" for name, figure in value.items()]
    return [f"{group}={quoted(str(value))}"]


def setting_words(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """Overrides of settings by name; a mapping holds those of a group."""
    words = []
    for name, value in settings.items():
        key = f"{above}{str(name).replace('__', '.')}"
        if key.partition(".")[0] == "hydra":
            raise UserError(f"{key}: a setting of the command alone; out=FOLDER names where results go")
        words += setting_words(value, f"{key}.") if isinstance(value, Mapping) else [f"{key}={_written(value)}"]
    return words


def cache_words(cache: Any) -> list[str]:
    if cache is None:
        return []
    if isinstance(cache, Mapping):
        return [f"cache.{name}={_written(value)}" for name, value in cache.items()]
    return [f"cache.fraction={_written(cache)}"]


def _written(value: Any) -> str:
    """A value as an override writes it. Raises: UserError for one of another kind."""
    if value is None:
        return "null"
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, Integral):  # numpy's, too
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, str | Path):
        return quoted(str(value))
    raise UserError(
        f"{printable(repr(value))}: must be a number, a text, a path, true or false, None, or a list of them"
    )
