"""Reads conf/policy without Hydra: which systems and rules there are, what they need, where they come from."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from policies.base import Part, Policy
from policies.needs import Need
from sim.assembly.build import PARTS, make_part, make_policy
from sim.docstrings import class_docstring, docstring
from sim.paths import CONF, yaml_names
from sim.plain_yaml import read_mapping
from traces.errors import UserError

POLICY_FOLDER = CONF / "policy"
DEFAULTS = "base/defaults"
"""The file of conf/policy that holds what all systems have in common."""
ALPHA = 0.35
"""Stands for the ``alpha`` of the policy that a rule is listed without."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A field of a rule with its default as the yaml writes it and the yaml's comment."""

    name: str
    default: str
    comment: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One yaml of conf/policy/<part>."""

    part: str
    name: str
    target: str
    what: str
    docstring: str
    source: str | None
    needs: tuple[Need, ...]
    knobs: tuple[Knob, ...]


@dataclass(frozen=True, slots=True)
class System:
    """One yaml of conf/policy: a named composition of rules."""

    name: str
    what: str
    header: tuple[str, ...]
    """Its comment, a paragraph each: what it is, source, with which overrides to run it, what is left out."""
    needs: dict[Need, str]
    """What it needs -> the class of the rule that needs it."""
    parts: dict[str, str]
    """Part -> name of the rule's yaml."""
    residency: str
    write_back: str
    scope: str
    """Of the cache, unless a run asks for another; so the next one."""
    start: str
    decides_as: str | None
    """Which systems decide identically, and where."""


def system_names() -> list[str]:
    """Names of the yamls of conf/policy."""
    return yaml_names(POLICY_FOLDER)


def rule_names(part: str) -> list[str]:
    """Names of the yamls of conf/policy/<part>."""
    return yaml_names(POLICY_FOLDER / part)


def policy_config(name: str) -> DictConfig:
    """The `policy` group as Hydra composes it for policy=NAME, without overrides."""
    config = OmegaConf.create()
    for part, rule in _parts(name).items():
        config[part] = _load(POLICY_FOLDER / part / f"{rule}.yaml")
    for file in (DEFAULTS, name):
        values = {key: value for key, value in _load(POLICY_FOLDER / f"{file}.yaml").items() if key != "defaults"}
        config = cast(DictConfig, OmegaConf.merge(config, values))
    return cast(DictConfig, OmegaConf.create({"policy": config}).policy)


def _parts(name: str) -> dict[str, str]:
    """Part -> name of the rule's yaml, of conf/policy/<name>.yaml on top of what all systems have in common."""
    rules = {}
    for file in (DEFAULTS, name):
        for entry in _load(POLICY_FOLDER / f"{file}.yaml").defaults:
            if not isinstance(entry, str):
                ((key, rule),) = entry.items()  # `part`, `override part` or `/policy/part@part`
                rules[str(key).split(" ")[-1].split("@")[-1]] = str(rule)
    return {part: rules[part] for part in PARTS}


def load_policy(name: str) -> Policy:
    """The policy of conf/policy/<name>.yaml. Raises: UserError where there is none of that name."""
    if name not in system_names():
        raise UserError(f"policy={name} is not known: choose one of {', '.join(system_names())}")
    return make_policy(policy_config(name))


def load_system(name: str) -> System:
    """What conf/policy/<name>.yaml says."""
    header, policy = paragraphs(POLICY_FOLDER / f"{name}.yaml"), load_policy(name)
    return System(
        name, header[0], header, policy.needs(), _parts(name), policy.residency, policy.write_back, policy.scope,
        policy.start, header_line(header, "Decides as"),
    )  # fmt: skip


def load_part(part: str, name: str, alpha: float = ALPHA) -> Any:
    """The rule of conf/policy/<part>/<name>.yaml, in a policy with this ``alpha``."""
    config = OmegaConf.create({"policy": {"alpha": alpha, part: _load(POLICY_FOLDER / part / f"{name}.yaml")}})
    return make_part(part, config.policy[part])


def load_rule(part: str, name: str) -> Rule:
    """What conf/policy/<part>/<name>.yaml and the class that it names say."""
    path = POLICY_FOLDER / part / f"{name}.yaml"
    rule = load_part(part, name)
    text = class_docstring(type(rule))
    module = docstring(inspect.getmodule(type(rule))).strip()
    header = paragraphs(path)
    needs = rule.all_needs() if isinstance(rule, Part) else rule.needs
    return Rule(
        part,
        name,
        str(_load(path)._target_),
        header[0] if header else module.splitlines()[0],
        text,
        source_of(text),
        tuple(sorted(needs)),
        tuple(_knobs(path)),
    )


def paragraphs(path: Path) -> tuple[str, ...]:
    """The comment at the head of a yaml: lines joined to paragraphs, each begun by its first line or a `Word:`."""
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        text = line[2:].strip()
        starts = text.split(":")[0] in ("Source", "Run with", "Left out", "Predictor", "Measured", "Decides as")
        if starts or not found:
            found.append(text)
        else:
            found[-1] += f" {text}"
    return tuple(found)


def source_of(docstring: str) -> str | None:
    """What a docstring says after `Source:`, as one line."""
    if "Source:" not in docstring:
        return None
    return " ".join(docstring.split("Source:", 1)[1].split("\n\n")[0].split())


def run_with(header: tuple[str, ...]) -> list[str]:
    """The overrides that a system's comment asks for."""
    return (header_line(header, "Run with") or "").split(" (")[0].split()


def header_line(header: tuple[str, ...], word: str) -> str | None:
    """What the paragraph `<word>: ...` of a system's comment says."""
    return next((line.removeprefix(f"{word}: ") for line in header if line.startswith(f"{word}: ")), None)


def _knobs(path: Path) -> list[Knob]:
    """The lines `name: value # comment` of a rule's yaml."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(("#", "_target_")) or ":" not in line:
            continue
        name, rest = line.split(":", 1)
        default, _, comment = rest.partition(" #")
        found.append(Knob(name.strip(), default.strip(), comment.strip()))
    return found


def _load(path: Path) -> Any:
    content = read_mapping(path, "the policy file")
    try:
        return OmegaConf.create(content)
    except OmegaConfBaseException as error:
        raise UserError(f"the policy file {path} cannot be read: {error}") from error
