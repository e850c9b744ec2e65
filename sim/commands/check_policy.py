"""Try a rule or policy of your own: what it must keep to be believed, with file and line where it does not.

    python -m sim check-policy path/to/rule.py                  the one rule that the file defines
    python -m sim check-policy path/to/rule.py:Class            one of several
    python -m sim check-policy path/to/mine.yaml                a policy, or one part with its knobs
    python -m sim check-policy eviction/lru                     a shipped rule
    python -m sim check-policy rule.py trace.path=T.safetensors policy.eviction.weight=2 budget=60

Everything else is an override of `python -m sim run`; `budget=SECONDS` (default 2) is what plain Python may take. Tried
are: signatures and ranges of knobs, the needs that it states, plain Python under checks (indices, types, numbers, what
it writes and reads), compilation, whether two runs agree, and whether a decision depends on what comes later.
"""

from __future__ import annotations

import math

from sim.terminal import next_commands
from traces.errors import UserError

BUDGET_S, MOST_S = 2.0, 3600.0
BESIDE = {
    "prediction": ["policy/prefetch=by_weight_all_layers"],
    "prefetch": ["policy/prediction=previous_token"],
}
"""What a rule needs around it to have an effect."""


def main(argv: list[str]) -> int:
    """Print what a rule or policy has passed, a line each; 0 where it passes all.

    Raises: UserError for the first thing that it does not pass.
    """
    from sim.assembly.build import build
    from sim.assembly.compose import compose_run
    from sim.run.contract import check_policy
    from traces.numba_cache import announce_compilation

    announce_compilation()
    targets = [word for word in argv if "=" not in word]
    if len(targets) != 1:
        raise UserError(f"check-policy takes one rule or policy, got {len(targets)}: as path/to/rule.py or mine.yaml")
    budget, words = BUDGET_S, []
    for word in argv:
        name, equals, value = word.partition("=")
        if equals and name == "budget":
            budget = _seconds(value)
        elif equals:
            words.append(word)
    replay = build(compose_run(*chosen(targets[0]), "engine=compiled", *words))
    for sentence in check_policy(replay, budget):
        print(sentence if sentence.startswith("note:") else f"ok    {sentence}", flush=True)
    print(next_commands(["run", *chosen(targets[0]), *words]))
    return 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST_S:
        raise UserError(f"budget={text}: must be a number of seconds, above 0 and at most {MOST_S:g}")
    return value


def chosen(target: str) -> list[str]:
    """The overrides that put a rule or policy in its place. Raises: UserError where it is neither."""
    from pathlib import Path

    from sim.assembly.catalogue import rule_names, system_names
    from sim.group_files import PARTS
    from sim.plain_yaml import read_mapping
    from sim.rule_files import file_target, find_class, rules_in

    part, _, name = target.partition("/")
    if part in PARTS and name in rule_names(part):
        return _of_part(part, name)
    if target in system_names():
        return [f"policy={target}"]
    if target.endswith(".yaml"):
        content = read_mapping(Path(target), "the policy file")
        if "_target_" not in content:
            return [f"policy={target}"]
        named = str(content["_target_"])
        where = file_target(named)
        inside = named if where is None else f"{Path(target).parent / where[0]}{':' + where[1] if where[1] else ''}"
        return _of_part(_part_of(find_class(inside, object, target)), target)
    where = file_target(target)
    if where is not None:
        path, name_of_class = where
        rules = [cls for cls in rules_in(path, target) if name_of_class in (None, cls.__name__)]
        if len(rules) == 1:
            return _of_part(_part_of(rules[0]), target)
        names = ", ".join(cls.__name__ for cls in rules_in(path, target)) or "no rule"
        raise UserError(f"{target}: the file defines {names}: name one, as {path}:CLASS")
    if ":" in target:
        return _of_part(_part_of(find_class(target, object, "check-policy")), target)
    raise UserError(f"check-policy {target}: must be a rule's file, a policy's yaml, module:Class or PART/RULE")


def _of_part(part: str, name: str) -> list[str]:
    return ["policy=lru", f"policy/{part}={name}", *BESIDE.get(part, [])]


def _part_of(rule: type) -> str:
    for cls in rule.__mro__:
        if cls.__module__ == "policies.base":
            return cls.__name__.lower()
    raise UserError(f"{rule.__name__} is no rule: must be derived from a part of policies/base.py")
