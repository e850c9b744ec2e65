"""plausible.json in a run's folder: its metrics on plausible machines, as `sim.run.plausible` replayed them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.results.json_files import read_json, write_json
from sim.statistics.plausible import Plausible
from traces.errors import UserError
from traces.whole_file import check_inside

NAME = "plausible.json"
Values = dict[str, float | None]
"""Metric -> value, None where it is not known."""


def key_of(provenance: Mapping[str, Any]) -> str:
    """Names what was replayed: the key of a run of a sweep, which counts its code, else its configuration and trace."""
    if provenance.get("key"):
        return str(provenance["key"])
    parts = {name: provenance.get(name) for name in ("config", "trace_hash", "versions")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def write_plausible(
    run: Path,
    provenance: Mapping[str, Any],
    requests: Sequence[int],
    stated: Values,
    drawn: Mapping[str, Sequence[Any]],
    moves: Mapping[str, Values],
) -> None:
    """Keep what was replayed; `moves`: with one figure moved, "FIGURE STANDARD_ERRORS" -> metrics.

    Raises: OSError where the folder cannot be written; UserError where a link leads out of it.
    """
    check_inside(run / NAME, run)
    what = {"label": "SIMULATED", "key": key_of(provenance), "requests": list(requests), "stated": stated}
    write_json(run / NAME, what | {"drawn": {name: list(values) for name, values in drawn.items()}, "moves": moves})


def read_moves(run: Path, provenance: Mapping[str, Any], requests: Sequence[int]) -> dict[str, Values]:
    """The `moves` that were kept for these requests of the run; none where it changed, or the file is broken."""
    try:
        known = read_json(run / NAME)
        if known["key"] != key_of(provenance) or known["requests"] != list(requests):
            return {}
        return {
            str(move): {str(name): None if value is None else float(value) for name, value in values.items()}
            for move, values in known["moves"].items()
        }
    except (UserError, LookupError, TypeError, ValueError, AttributeError):
        return {}


def read_plausible(run: Path, provenance: Mapping[str, Any]) -> Plausible | None:
    """What was replayed for the run as it is now; None where nothing was, or for another run, or the file is broken."""
    try:
        known = read_json(run / NAME)
        if known["key"] != key_of(provenance):
            return None
        stated = {str(name): _number(value) for name, value in known["stated"].items()}
        drawn = {str(name): np.array([_number(value) for value in values]) for name, values in known["drawn"].items()}
        if stated.keys() != drawn.keys() or len({len(values) for values in drawn.values()}) > 1:
            return None
        return Plausible(tuple(int(number) for number in known["requests"]), stated, drawn)
    except (UserError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
