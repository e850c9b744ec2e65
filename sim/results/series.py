"""What runs are called in every table and figure, how such names are sorted, and which of them a word names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from sim.group_files import PARTS
from traces.errors import UserError

NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def own_parts(words: dict[str, str], policy: dict[str, Any]) -> list[str]:
    """The overrides, as `policy/eviction`, that put a rule into a policy which is not shipped."""
    names = [(f"policy/{part}", policy.get(part)) for part in PARTS]
    rules = {key: str(part.get("_target_") or "") for key, part in names if isinstance(part, dict)}
    return [key for key in words if key in rules and not rules[key].startswith("policies.")]


def series_names(
    policies: Sequence[str], settings: Sequence[dict[str, Any]], own: Sequence[Sequence[str]] = ()
) -> list[str]:
    """The policy of each run, with every setting that is not the same in all of them, and those of `own`.

    `own`: the settings of each run that put a rule of the reader's own into it: without them it would have the name of
    the policy that it is no longer. A rule's file goes by its name, unless two of a name lie in several folders.
    """
    keys = dict.fromkeys(key for one in settings for key in one)
    varied = [key for key in keys if len({str(one.get(key)) for one in settings}) > 1]
    shown = [*(key for key in keys if key not in varied and any(key in one for one in own)), *varied]
    short = {key: _file_names([str(one[key]) for one in settings if one.get(key) is not None]) for key in shown}
    names = []
    for policy, one in zip(policies, settings, strict=True):
        words = [f"{key.split('/')[-1]}={short[key][str(one[key])]}" for key in shown if one.get(key) is not None]
        names.append(" ".join([policy, *words]))
    return names


def _file_names(values: Sequence[str]) -> dict[str, str]:
    """Each value -> its name without the folder, where it is a rule's file and no other of that name is among them."""
    names = {value: PurePath(value).name if value.endswith(".py") else value for value in dict.fromkeys(values)}
    return names if len(set(names.values())) == len(names) else {value: value for value in names}


def run_name(policy: str, overrides: Sequence[str]) -> str:
    """One run's policy with the parts and knobs that were set, in the words of `series_names`."""
    words = [word.lstrip("+~") for word in overrides]
    return " ".join(
        [policy, *(word.removeprefix("policy/") for word in words if word.startswith(("policy/", "policy.")))]
    )


def by_number(column: pd.Series[Any]) -> pd.Series[Any]:
    """Key for sorting: places of names whose numbers count as numbers (2, 4, 16); other columns stay as they are."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    place = {name: index for index, name in enumerate(sorted(set(map(str, column)), key=natural))}
    return column.map(lambda name: place[str(name)])


def natural(name: str) -> tuple[str | float, ...]:
    """Sorts names by their words and, where these are the same, by the numbers between them."""
    return tuple(float(word) if place % 2 else word for place, word in enumerate(NUMBER.split(name)))


def is_plain(series: str, policy: str) -> bool:
    """Whether a series is the policy as it is: no word exchanges a part or sets a knob (`lru eviction=lru` is so)."""
    words = series.removeprefix(policy).split()
    same = [f"{part}={policy}" for part in PARTS]
    return not any(word.startswith(("policy.", *(f"{part}=" for part in PARTS))) for word in words if word not in same)


def rule_name(part: Mapping[str, Any]) -> str | None:
    """The name of a rule's module: `score_window` for `policies.eviction.score_window.ScoreWindow`, or of its file."""
    words = re.split(r"[./:]", str(part.get("_target_") or "").replace(".py:", "."))
    return words[-2 if len(words) > 1 else 0] or None


def of_rule(series: str, name: str) -> bool:
    """Whether a rule from the file `name`, with or without its ending, is a part of a series."""
    words = [word.partition("=") for word in series.split(" ")]
    return any(
        key in PARTS and value.endswith(".py") and name in (Path(value).name, Path(value).stem)
        for key, _, value in words
    )


def has_own_rule(series: str) -> bool:
    """Whether a rule from a file is a part of a series."""
    words = [word.partition("=") for word in series.split(" ")]
    return any(key in PARTS and value.endswith(".py") for key, _, value in words)


def chosen_baseline(table: pd.DataFrame, baseline: str) -> set[str]:
    """The series that `baseline` names: one of that name, else the plain policy, else all with the rule of that file.

    Raises: UserError where it names none, or several of which none is the plain policy.
    """
    pairs = dict(zip(table["series"].map(str), table["policy"].map(str), strict=True))
    if baseline in pairs:
        return {baseline}
    found = [series for series, policy in pairs.items() if policy == baseline]
    plain = {series for series in found if is_plain(series, baseline)}
    if plain:
        return plain
    if found:
        raise UserError(
            f"baseline={baseline}: no run is the plain policy {baseline}; baseline=SERIES takes one of "
            f"{', '.join(found)}, `python -m sim run policy={baseline}` of the same sweep.name adds the plain one"
        )
    ruled = [series for series in pairs if of_rule(series, baseline)]
    if len(ruled) == 1:
        return set(ruled)
    if ruled:
        raise UserError(f"baseline={baseline} is a rule of several series: name one of {', '.join(ruled)}")
    raise UserError(f"baseline={baseline} is neither a policy nor a series: known are {', '.join(pairs)}")
