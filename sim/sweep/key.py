"""Names a run by all that decides its result: configuration, content of the trace, code."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sim.paths import ROOT
from sim.predictors.checkpoint import DATA, EMBEDDED

FOLDERS = ("sim", "policies", "traces")
DECIDES = ("sim.run", "sim.systems", "policies")
"""Packages that decide what a run writes, together with all that they import."""
IMPORT = re.compile(r"^[ \t]*from ((?:sim|policies|traces)[\w.]*) import ([^#\n(]+|\([^)]*\))", re.MULTILINE)
LENGTH = 12


def deciding_sources() -> dict[str, Path]:
    """The sources that decide a result, by module: those of ``DECIDES`` and, step by step, what they import.

    Imports inside functions count too. Whatever only reads results, such as a figure, is not among them: editing it
    repeats no run.
    """
    sources = {_module_of(path): path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    found: dict[str, Path] = {}
    queue = [name for name in sources for start in DECIDES if name == start or name.startswith(f"{start}.")]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found[name] = sources[name]
        for package, names in IMPORT.findall(sources[name].read_text(encoding="utf-8")):
            members = [f"{package}.{member.split(' as ')[0].strip()}" for member in names.strip("()\n ").split(",")]
            queue += [module for module in (package, *members, *_packages_of(package)) if module in sources]
    return dict(sorted(found.items()))


def _module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _packages_of(module: str) -> list[str]:
    """The packages around a module, which Python runs first."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


@cache
def code_version() -> str:
    """sha256 over the sources that decide a result and the data in their folders, once per process."""
    sources = deciding_sources()
    data = {path for folder in {path.parent for path in sources.values()} for path in folder.glob("*.json")}
    digest = hashlib.sha256()
    for path in (*sources.values(), *sorted(data)):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def run_key(config: dict[str, Any], trace_hash: str) -> str:
    """sha256 of a resolved configuration, the trace's content and the code; where the files lie does not count.

    The group `sweep` says where results go, not what they are, except for `sweep.steps`. Files that the
    configuration names, such as a machine or the weights of a predictor, count by their content, and so does the
    module of a rule that lies in somebody's own folder.
    """
    rest = {name: value for name, value in config.items() if name != "sweep"}
    rest["trace"] = {
        name: value for name, value in (config.get("trace") or {}).items() if name not in ("path", "embedded")
    }
    parts = {
        "config": _by_content(rest),
        "steps": (config.get("sweep") or {}).get("steps"),
        "trace": trace_hash,
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def run_name(config: dict[str, Any], key: str) -> str:
    """A run's folder: its policy, and enough of its key."""
    policy = (config.get("policy") or {}).get("name") if isinstance(config.get("policy"), dict) else None
    system = (config.get("system") or {}).get("name") if isinstance(config.get("system"), dict) else None
    title = str(policy if system in (None, "device") else system)
    return f"{''.join(letter if letter.isalnum() or letter in '-_' else '-' for letter in title)}_{key[:LENGTH]}"


def _by_content(value: Any, name: str = "") -> Any:
    """The same with the content's hash for every text that names a file, or the predictors of the package."""
    if isinstance(value, dict):
        return {inner_name: _by_content(inner, inner_name) for inner_name, inner in value.items()}
    if isinstance(value, list):
        return [_by_content(item, name) for item in value]
    if not isinstance(value, str):
        return value
    if name == "checkpoint" and value == EMBEDDED:
        return _embedded()
    if name == "_target_":
        return [value, _own_module(value.rpartition(".")[0])]
    if "/" in value or Path(value).suffix or name in ("path", "checkpoint"):
        path = Path(os.path.expanduser(value))  # noqa: PTH111  (pathlib's own raises for users it does not know)
        return hashlib.sha256(path.read_bytes()).hexdigest() if _is_file(path) else value
    return value


def _own_module(module: str) -> str | None:
    """sha256 of the source of a module outside the packages whose code counts anyway."""
    if module.partition(".")[0] in FOLDERS:
        return None
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # building the policy says what is wrong
        return None
    source = spec.origin if spec is not None else None
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source and _is_file(Path(source)) else None


@cache
def _embedded() -> str:
    """sha256 over the predictors of the package."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(DATA.iterdir()))).hexdigest()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a path
        return False


def words_of(overrides: Iterator[str] | list[str]) -> list[str]:
    """Overrides of a job without those that only choose where it runs and where results go."""
    return [word for word in overrides if not word.lstrip("+~").startswith(("hydra", "sweep"))]
