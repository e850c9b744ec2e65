"""Names a run by all that decides its result: configuration, content of the trace, code."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from sim.machine.model import MODEL_FOLDER
from sim.machine.runtime import RUNTIME_FOLDER
from sim.paths import ROOT
from sim.predictors.checkpoint import DATA, EMBEDDED
from sim.rule_files import file_target, imported_names, local_sources

FOLDERS = ("sim", "policies", "traces")
DECIDES = ("sim.run", "sim.systems", "policies")
"""Packages that decide what a run writes, together with all that they import."""
IMPORT = re.compile(r"^[ \t]*from ((?:sim|policies|traces)[\w.]*) import ([^#\n(]+|\([^)]*\))", re.MULTILINE)
LENGTH = 12
INSTALLED = {"site-packages", "dist-packages"}


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
    """sha256 over the sources that decide a result, the data in their folders and all model files, once per process."""
    sources = deciding_sources()
    data = {path for folder in {path.parent for path in sources.values()} for path in folder.glob("*.json")}
    # Found by name: model=auto and the models of systems, and the runtime that a policy names.
    data |= {path for folder in (MODEL_FOLDER, RUNTIME_FOLDER) for path in folder.glob("*.yaml")}
    digest = hashlib.sha256()
    for path in (*sources.values(), *sorted(data)):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def run_key(config: dict[str, Any], trace_hash: str) -> str:
    """sha256 of a resolved configuration, the trace's content and the code; where the files lie does not count.

    The group `sweep` says where results go, not what they are, except for `sweep.steps`. Files that the
    configuration names, such as the weights of a predictor, count by their content, and so does the module of a rule
    that lies in somebody's own folder, with what it imports from there.
    """
    rest = {name: value for name, value in config.items() if name != "sweep"}
    rest["trace"] = {
        name: value for name, value in (config.get("trace") or {}).items() if name not in ("path", "embedded")
    }
    parts = {
        "config": by_content(rest),
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


def by_content(value: Any, name: str = "", of_rule: bool = False) -> Any:
    """The same with the content's hash for every text that names a file, or the predictors of the package.

    A text counts as a path where it looks like one; every text does where its name, or that it is the knob of a rule
    (``of_rule``), says that it may be one.
    """
    if isinstance(value, dict):
        inside = of_rule or "_target_" in value
        return {inner_name: by_content(inner, inner_name, inside) for inner_name, inner in value.items()}
    if isinstance(value, list):
        return [by_content(item, name, of_rule) for item in value]
    if not isinstance(value, str):
        return value
    if name == "checkpoint" and value == EMBEDDED:
        return _embedded()
    if name == "_target_":
        where = file_target(value)
        return [value, _own_module(value.rpartition(".")[0])] if where is None else [where[1], _own_file(where[0])]
    if of_rule or "/" in value or Path(value).suffix or name in ("path", "checkpoint"):
        path = Path(os.path.expanduser(value))  # noqa: PTH111  (pathlib's own raises for users it does not know)
        return _content(path) if _is_file(path) else value
    return value


def _content(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_file(path: Path) -> dict[str, str] | None:
    """sha256 of a rule's file and of the modules beside it that it imports; None where there is no such file."""
    if not path.is_file():  # building the policy says so
        return None
    folder = path.absolute().parent
    return {str(source.relative_to(folder)): _content(source) for source in local_sources(path)}


def _own_module(module: str) -> str | None:
    """sha256 of the sources of a module outside the packages whose code counts anyway, and of what it imports.

    Modules of the same root folder count, step by step; of installed ones, those of the same package.
    """
    first = _source(module)
    if module.partition(".")[0] in FOLDERS or first is None:
        return None
    root = first.parents[len(module.split(".")) - (first.name != "__init__.py")]
    own = f"{module.partition('.')[0]}." if INSTALLED & set(root.parts) else ""
    found: dict[str, str] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        source = None if name in found else _source(name)
        if source is None or not source.is_relative_to(root) or not f"{name}.".startswith(own):
            continue
        found[name] = _content(source)
        package = name if source.name == "__init__.py" else name.rpartition(".")[0]
        queue += [*_packages_of(name), *imported_names(source, package)]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _source(module: str) -> Path | None:
    """The file of a module, without running it or its packages; None where there is none."""
    try:
        package, _, _ = module.rpartition(".")
        around = _source(package) if package else None
        if package and around is None:
            return None
        spec = PathFinder.find_spec(module, None if around is None else [str(around.parent)])
    except (ImportError, ValueError):  # building the policy says what is wrong
        return None
    if spec is None:
        return None
    if spec.origin is None:  # a folder without __init__.py
        places = list(spec.submodule_search_locations or ())
        return Path(places[0]) / "__init__.py" if places else None
    return Path(spec.origin) if spec.has_location else None


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
