"""Compares another tool's answers with the conformance vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.config import suggest
from sim.results.json_files import read_json
from traces.errors import UserError

VECTORS = Path(__file__).resolve().parent / "vectors"
RIGHT, WRONG, UNANSWERED = "right", "WRONG", "not answered"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one vector: right, WRONG or not answered, and in words where the first difference lies."""

    name: str
    outcome: str
    compared: int
    """Values that were compared."""
    why: str = ""


def vectors() -> dict[str, dict[str, Any]]:
    """Every vector by name."""
    return {path.stem: read_json(path) for path in sorted(VECTORS.glob("*.json"))}


def judge(answers: Mapping[str, Any]) -> list[Verdict]:
    """The verdict on each vector. ``answers``: the members of a file as docs/conformance/README.md describes it.

    A tool answers what it can: of a vector any members of `totals`, and of each step any of `outcomes`,
    `resident_after`, `copied_bytes`, `latency_ns`, `hits` (per layer).
    Raises: UserError for a member that no vector has, for answers of another shape, and where nothing is answered.
    """
    given, known = answers.get("answers"), vectors()
    if not isinstance(given, dict):
        raise UserError("answers: must hold a member for each vector that is answered, see docs/conformance/README.md")
    for name in given:
        if name not in known:
            raise UserError(f"answers.{name} is no vector: {suggest(name, known)}")
    verdicts = [_verdict(name, one["answers"], given.get(name)) for name, one in known.items()]
    if not any(one.compared for one in verdicts):
        raise UserError(f"answers: none of the {len(known)} vectors is answered, so that nothing can be judged")
    return verdicts


def _verdict(name: str, right: dict[str, Any], given: Any) -> Verdict:
    if given is None:
        return Verdict(name, UNANSWERED, 0)
    compared = 0
    for where, wanted, found in _pairs(name, right, given):
        compared += 1
        if wanted != found or isinstance(found, bool):
            return Verdict(name, WRONG, compared, f"{where}: {_shown(found)}, must be {_shown(wanted)}")
    return Verdict(name, RIGHT if compared else UNANSWERED, compared)


def _pairs(name: str, right: dict[str, Any], given: Any) -> Iterator[tuple[str, Any, Any]]:
    """(where, right value, given value) of everything that was answered, steps first."""
    place = f"answers.{name}"
    steps = _member(given, "steps", list, place) or []
    if steps and len(steps) != len(right["steps"]):
        raise UserError(f"{place}.steps has {len(steps)} steps: must be {len(right['steps'])}")
    _check_names(given, ("steps", "totals"), place)
    for number, (wanted, found) in enumerate(zip(right["steps"], steps, strict=False)):
        hits = [sum(word == "hit" for word in layer.values()) for layer in wanted["outcomes"]]
        yield from _members(f"{place}.steps[{number}]", wanted | {"hits": hits}, found)
    yield from _members(f"{place}.totals", right["totals"], _member(given, "totals", dict, place) or {})


def _members(place: str, wanted: dict[str, Any], found: Any) -> Iterator[tuple[str, Any, Any]]:
    _check_names(found, wanted, place)
    for name, value in wanted.items():
        if name not in found:
            continue
        if name == "outcomes" and isinstance(found[name], list) and len(found[name]) == len(value):
            yield from _outcomes(place, value, found[name])
        else:
            yield f"{place}.{name}", value, found[name]


def _outcomes(place: str, wanted: list[dict[str, str]], found: list[Any]) -> Iterator[tuple[str, Any, Any]]:
    for layer, (right, given) in enumerate(zip(wanted, found, strict=True)):
        if not isinstance(given, dict):
            raise UserError(f"{place}.outcomes[{layer}]: must be the outcome of each expert by its number")
        for expert in sorted({*right, *given}, key=str):
            yield f"{place}.outcomes: layer {layer}, expert {expert}", right.get(expert), given.get(expert)


def _member(value: Any, name: str, kind: type, place: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{place}: must hold steps, totals or both")
    found = value.get(name)
    if found is not None and not isinstance(found, kind):
        raise UserError(f"{place}.{name}: must be {'a list' if kind is list else 'names and values'}")
    return found


def _check_names(value: Any, known: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{place}: must be names and values")
    for name in value:
        if name not in known:
            raise UserError(f"{place}.{name} is not a member of a vector's answers: {suggest(name, [*known])}")


def _shown(value: Any) -> str:
    """A value in a sentence as the file has it, cut where it is long."""
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
