"""List the systems and rules that `python -m sim run` knows, or explain one of them.

    python -m sim policies                       every system, then every rule by part, with what each needs
    python -m sim policies importance            one system: its parts, source, what is left out of the original
    python -m sim policies eviction/lru          one rule: what it does, its knobs with defaults, source
    python -m sim policies smoe_code             every system and rule of that name
    python -m sim policies --json                all of it for programs

A system is a file of conf/policy, run by `python -m sim run policy=NAME`; a rule is a file of conf/policy/PART and
takes the place of a system's own by policy/PART=NAME. A knob is set by policy.PART.KNOB=VALUE, for example
`python -m sim run policy=importance policy/eviction=aged_lfu policy.eviction.half_life_tokens=32`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING

from sim.docstrings import docstring
from traces.errors import UserError
from traces.numba_cache import announce_compilation

if TYPE_CHECKING:
    from policies.needs import Need
    from sim.assembly.catalogue import Rule, System


def main(argv: list[str]) -> int:
    """Print the list, or one name's explanation, as text or JSON; 0 on success.

    Raises: UserError for a name that is no system and no rule.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sim policies",
        description=docstring(sys.modules[__name__]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a system, a rule, or PART/RULE")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    options = parser.parse_args(argv)
    announce_compilation()
    systems, rules = chosen(options.name)
    if options.json:
        found = {"systems": [asdict(s) for s in systems], "rules": [asdict(r) for r in rules]}
        print(json.dumps(found | ({"installed": installed()} if options.name is None else {}), indent=2))
    elif options.name is None:
        print(overview(systems, rules))
    else:
        print("\n\n".join([*map(explain_system, systems), *map(explain_rule, rules)]))
    return 0


def chosen(name: str | None) -> tuple[list[System], list[Rule]]:
    """All systems and rules, or those of this name. Raises: UserError where nothing has it."""
    from sim.assembly.build import PARTS
    from sim.assembly.catalogue import load_rule, load_system, rule_names, system_names

    systems = [system for system in system_names() if name in (None, system)]
    keys = [(part, rule) for part in PARTS for rule in rule_names(part)]
    rules = [(part, rule) for part, rule in keys if name in (None, rule, f"{part}/{rule}")]
    if not systems and not rules:
        known = [*system_names(), *(word for part, rule in keys for word in (rule, f"{part}/{rule}"))]
        near = get_close_matches(str(name), known, 1)
        hint = f"did you mean {near[0]}?" if near else "python -m sim policies lists them"
        raise UserError(f"{name} is neither a system nor a rule: {hint}")
    return [load_system(system) for system in systems], [load_rule(part, rule) for part, rule in rules]


def overview(systems: list[System], rules: list[Rule]) -> str:
    """One line per system and rule, and what the needs mean."""
    from policies.needs import Need
    from sim.assembly.build import PARTS

    blocks = [["systems: python -m sim run policy=NAME", *_lines((s.name, says_twins(s), s.needs) for s in systems)]]
    for part in PARTS:
        lines = _lines((rule.name, rule.what, rule.needs) for rule in rules if rule.part == part)
        blocks.append([f"{part}: policy/{part}=NAME", *lines])
    if targets := installed():
        lines = _lines((name, target, ()) for name, target in targets.items())
        blocks.append(["rules of installed packages: policy/PART=NAME", *lines])
    used = {need for s in systems for need in s.needs} | {need for rule in rules for need in rule.needs}
    blocks.append(["needs, in brackets", *(f"  {need:<18} {need.sentence}" for need in Need if need in used)])
    blocks.append(["python -m sim policies NAME explains one of them."])
    return "\n\n".join("\n".join(block) for block in blocks)


def installed() -> dict[str, str]:
    """Rules that other packages offer as entry points of the group `moe_offload_sim.policies`: name -> MODULE:CLASS."""
    from sim.rule_files import entry_point_targets

    return dict(sorted(entry_point_targets().items()))


def says_twins(system: System) -> str:
    """What a system is, and which others decide as it does."""
    return system.what if system.decides_as is None else f"{system.what} Decides as {system.decides_as}"


def _lines(entries: Iterable[tuple[str, str, Iterable[str]]]) -> list[str]:
    found = [(name, what, sorted(needs)) for name, what, needs in entries]
    width = max(len(name) for name, _, _ in found)
    return [f"  {name:<{width}}  {what}{' [' * bool(n)}{', '.join(n)}{']' * bool(n)}" for name, what, n in found]


def explain_system(system: System) -> str:
    """What a system is, what it is made of, and how to run it."""
    from sim.assembly.catalogue import run_with

    lines = [f"system {system.name}", *(f"  {paragraph}" for paragraph in system.header), ""]
    lines += [f"  {part:<13} {rule}" for part, rule in system.parts.items()]
    lines += [f"  {'residency':<13} {system.residency}", f"  {'write_back':<13} {system.write_back}"]
    lines += [f"  {'scope':<13} {system.scope}", f"  {'start':<13} {system.start}"]
    lines += ["", "  needs", *_needs({need: f" ({rule})" for need, rule in system.needs.items()}), ""]
    lines.append(f"  {' '.join([f'python -m sim run policy={system.name}', *run_with(system.header)])}")
    return "\n".join(lines)


def explain_rule(rule: Rule) -> str:
    """What a rule does, its knobs and needs."""
    lines = [f"{rule.part} {rule.name}: {rule.what}", f"  {rule.target}", ""]
    lines += [f"  {line}".rstrip() for line in rule.docstring.splitlines()]
    lines += ["", "  knobs", *([] if rule.knobs else ["    none"])]
    for knob in rule.knobs:
        setting = f"policy.{rule.part}.{knob.name}={knob.default}"
        lines.append(f"    {setting:<44} {knob.comment}".rstrip())
    lines += ["  needs", *_needs(dict.fromkeys(rule.needs, ""))]
    lines += ["", f"  python -m sim run policy/{rule.part}={rule.name}"]
    return "\n".join(lines)


def _needs(rules: dict[Need, str]) -> list[str]:
    lines = [f"    {need}{rule}: {need.sentence}" for need, rule in rules.items()]
    return lines or ["    nothing: any trace will do"]
