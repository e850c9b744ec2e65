"""Which rules are those that the tests have tried: modules of the package whose source is still what it was then.

Any other rule, a new or an edited one, is tried before it runs, and compiled so that it reaches no memory but its own.
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path

from policies.base import Allocation, Part, Policy
from sim.paths import ROOT

LIST = Path(__file__).with_name("shipped_rules.json")
FOLDER = ROOT / "policies"
_BASES = (object, Part, Allocation)


def digest_of(path: Path) -> str:
    """sha256 of a source."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rule_sources() -> dict[str, Path]:
    """The modules of all parts' rules."""
    paths = (path for path in FOLDER.glob("*/*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(paths)}


@cache
def _listed() -> dict[str, str]:
    found: dict[str, str] = json.loads(LIST.read_text(encoding="utf-8"))
    return found


def is_shipped(rule: type) -> bool:
    """Whether a rule and the rules that it derives from are shipped as they stand."""
    return all(_is_listed(cls) for cls in rule.__mro__ if cls not in _BASES and cls.__module__ != "policies.base")


def _is_listed(cls: type) -> bool:
    return _stands_as_listed(cls.__module__)


@cache
def _stands_as_listed(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    digest = _listed().get(module)
    return digest is not None and file is not None and digest_of(Path(file)) == digest


def own_parts(policy: Policy) -> dict[str, Part | Allocation]:
    """The parts of a policy that are not shipped as they stand."""
    parts: dict[str, Part | Allocation] = {type_name(part): part for part in policy.parts()}
    parts["allocation"] = policy.allocation
    return {name: part for name, part in parts.items() if not is_shipped(type(part))}


def type_name(part: Part | Allocation) -> str:
    """The name of the part that a rule belongs to, as `eviction`."""
    return next(cls.__name__.lower() for cls in type(part).__mro__ if cls.__module__ == "policies.base")
