"""Finds the class of a rule: by its module, in a file of one's own, or under the name of an entry point.

    policies.eviction.lru.Lru       a class of an importable module; also policies.eviction.lru:Lru
    path/to/rule.py:Mine            the class of a file
    path/to/rule.py                 the one rule of a part that the file defines

A file is run anew when it or a module beside it that it imports has changed, and two files in two folders may each
import a `helper` of their own.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from sysconfig import get_paths
from types import ModuleType
from typing import Any

from traces.errors import UserError
from traces.whole_input import read_bounded

SUFFIX = ".py"
GROUP = "moe_offload_sim.policies"
"""Entry points of installed packages: a rule's class each, by the name that `policy/PART=NAME` gives."""
MOST_BYTES = 1 << 20
"""Of one source: no rule is longer."""
_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>\w+))?")
_OURS = "_rule_file_"
_given: dict[str, type] = {}
"""Classes handed over as objects, by the target that stands for them."""
_siblings: dict[str, Path] = {}
"""Modules beside rules' files that were imported from there, by the name under which a rule imports them."""


def file_target(target: str) -> tuple[Path, str | None] | None:
    """(file, name of the class or None) of a target that names a file; None for one that names a module."""
    found = _FILE.fullmatch(target)
    return None if found is None else (Path(found["path"]).expanduser(), found["name"])


def find_class(target: str, base: type, field: str) -> type:
    """The rule that a target names, derived from ``base``.

    Raises: UserError beginning with ``field``: where the file cannot be read or run, holds no such class, or several.
    """
    if target in _given:
        return _checked(_given[target], base, f"{field}={target}")
    where = file_target(target)
    if where is not None:
        return _class_of_file(*where, base, field)
    module_name, _, name = target.replace(":", ".").rpartition(".")
    if not module_name:
        raise UserError(f"{field}={target}: must name a class, as policies.eviction.lru.Lru or path/to/rule.py")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(f"{field}={target}: cannot be imported: {_at(error)}") from error
    said = f"{field}={target}"
    return _checked(_named(module, name, said), base, said)


def target_of(rule: type) -> str:
    """A target under which `find_class` finds this very class in this process, also one of a notebook."""
    target = f"{rule.__module__}:{rule.__qualname__}"
    _given[target] = rule
    return target


def _class_of_file(path: Path, name: str | None, base: type, field: str) -> type:
    said = f"{field}={path}"
    module = run_file(path, said)
    if name is not None:
        return _checked(_named(module, name, said), base, said)
    defined = rules_in(path, said)
    fits = [cls for cls in defined if issubclass(cls, base)]
    if len(fits) == 1:
        only: type = fits[0]
        return only
    if fits:
        names = " and ".join(cls.__name__ for cls in fits)
        raise UserError(f"{said}: defines {names}: name one of them, as {path}:{fits[0].__name__}")
    others = ", ".join(f"{cls.__name__} of {part}" for cls in defined for part in _part_names(cls))
    what = f"defines {others}, and no rule" if others else "defines no rule"
    raise UserError(f"{said}: {what} of this part: a class derived from {base.__module__}.{base.__name__}")


def rules_in(path: Path, said: str) -> list[type]:
    """The rules of all parts that a file defines. Raises: UserError as `run_file`."""
    module = run_file(path, said)
    return [cls for cls in vars(module).values() if _is_rule(cls, module)]


def part_name(rule: type) -> str:
    """The part that a rule belongs to, as `eviction`."""
    return next(cls.__name__.lower() for cls in rule.__mro__ if cls.__module__ == "policies.base")


def _part_names(cls: type) -> list[str]:
    """The part of a rule's class, if it has one."""
    return [f"policy/{base.__name__.lower()}" for base in cls.__mro__ if base.__module__ == "policies.base"][:1]


def _is_rule(cls: Any, module: ModuleType) -> bool:
    own = isinstance(cls, type) and cls.__module__ == module.__name__ and not cls.__name__.startswith("_")
    return own and bool(_part_names(cls))


def _named(module: ModuleType, name: str, said: str) -> Any:
    found = getattr(module, name, None)
    if found is not None:
        return found
    names = [
        key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    near = get_close_matches(name, names, 1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"it defines {', '.join(names) or 'no class'}"
    raise UserError(f"{said}: cannot be imported: {getattr(module, '__file__', module.__name__)} has no {name}: {hint}")


def _checked(cls: Any, base: type, said: str) -> type:
    if isinstance(cls, type) and issubclass(cls, base):
        return cls
    wanted = "a rule's class" if base is object else f"a subclass of {base.__module__}.{base.__name__}"
    raise UserError(f"{said}: must be {wanted}")


def run_file(path: Path, said: str) -> ModuleType:
    """The module of a file, run once for each content. Raises: UserError where it cannot be read or run."""
    path = path.absolute()
    if not path.is_file():
        raise UserError(f"{said}: {'must be a file' if path.exists() else 'there is no such file'}")
    sources = {source: _content(source) for source in local_sources(path)}
    digest = hashlib.sha256(b"\0".join(sources.values()) + str(path).encode()).hexdigest()[:16]
    name = f"{_OURS}{digest}_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with _beside(path.parent, sources):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{said}: cannot be imported: {_at(error)}") from error
    return module


@contextmanager
def _beside(folder: Path, sources: Iterable[Path]) -> Iterator[None]:
    """While it lasts, modules of a folder are found first, and those of other rules' folders are forgotten."""
    for name in [name for name in _siblings if name in sys.modules]:
        del sys.modules[name]
    _siblings.clear()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        known = set(sources)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file) in known and not name.startswith(_OURS):
                _siblings[name] = Path(file)


def _at(error: BaseException) -> str:
    """What an import says, with the file and line that it stopped at."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    files = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    library = get_paths()["stdlib"]
    own = [frame for frame in files if not frame.filename.startswith(library) and "-packages" not in frame.filename]
    said = f"{error}" if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
    said += ": write @dataclass(frozen=True) above the class" if "non-frozen dataclass" in said else ""
    last = (own or files)[-1:]
    return f"{last[0].filename}:{last[0].lineno}: {said}" if last else said


def _content(path: Path) -> bytes:
    return read_bounded(path, MOST_BYTES, "the source")


def local_sources(path: Path) -> list[Path]:
    """A rule's file and the modules of its folder that it imports, step by step, inside functions too."""
    found: dict[Path, None] = {}
    waiting = [path.absolute()]
    while waiting:
        source = waiting.pop()
        if source in found:
            continue
        found[source] = None
        for module in imported_names(source, ""):
            waiting += _local(module, path.absolute().parent)
    return sorted(found)


def _local(module: str, folder: Path) -> list[Path]:
    """The files of a module and the packages around it in a folder; none where it does not lie there."""
    found: list[Path] = []
    place = folder
    for part in module.split("."):
        candidates = (place / f"{part}{SUFFIX}", place / part / "__init__.py")
        found += [path for path in candidates if path.is_file()]
        place = place / part
    return found


def imported_names(source: Path, package: str) -> list[str]:
    """The modules that a source may import, inside functions too; names that are no modules do no harm.

    ``package``: the one that the source is in, for relative imports.
    """
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (above, node.module or "")))
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in found if name]


@cache
def entry_point_targets() -> dict[str, str]:
    """Rules of installed packages: name -> target."""
    return {point.name: point.value for point in entry_points(group=GROUP)}
