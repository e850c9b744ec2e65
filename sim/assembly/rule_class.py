"""What a rule of one's own must look like before it runs: each fault is a sentence with file, line and mend."""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from types import FunctionType
from typing import Any, get_args, get_type_hints

from policies.base import Allocation, Part
from policies.needs import Need
from sim.engine.decision.layout import DECISIONS
from sim.shipped_rules import is_shipped, type_name
from traces.errors import UserError

Rule = Part | Allocation
CONTAINERS = {
    ast.List: "a list", ast.ListComp: "a list", ast.Dict: "a dict", ast.DictComp: "a dict", ast.Set: "a set",
    ast.SetComp: "a set", ast.GeneratorExp: "a generator", ast.JoinedStr: "a text", ast.Lambda: "a function",
    ast.FunctionDef: "a function", ast.ClassDef: "a class", ast.Try: "try", ast.With: "with", ast.Import: "import",
    ast.ImportFrom: "import", ast.Global: "global", ast.Nonlocal: "nonlocal", ast.Yield: "yield", ast.Delete: "del",
}  # fmt: skip
CALLS = ("list", "dict", "set", "open", "print", "input", "eval", "exec", "getattr", "setattr", "super")
RANDOM = ("np.random", "numpy.random", "random", "time")


def place_of(thing: Any) -> str:
    """FILE:LINE of a class or function."""
    thing = getattr(thing, "__func__", thing)
    if isinstance(thing, FunctionType):
        return f"{thing.__code__.co_filename}:{thing.__code__.co_firstlineno}"
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return str(thing.__module__)


def line_of_field(rule: type, name: str) -> str:
    """FILE:LINE of what a class says of a field."""
    for cls in rule.__mro__:
        try:
            lines, first = inspect.getsourcelines(cls)
        except (OSError, TypeError):
            continue
        found = [i for i, line in enumerate(lines) if line.strip().startswith((f"{name}:", f"{name} =", f"{name}="))]
        if found:
            return f"{inspect.getsourcefile(cls)}:{first + found[0]}"
    return place_of(rule)


def check_class(rule: type) -> None:
    """Raises: UserError where a class that is not shipped has a fault that can be seen without running it."""
    base = base_of(rule)
    for cls in own_classes(rule):
        annotated = inspect.get_annotations(cls)
        if annotated and "__dataclass_params__" not in cls.__dict__:
            raise UserError(f"{place_of(cls)}: {cls.__name__} is no dataclass: write @dataclass(frozen=True) above it")
        for name, value in cls.__dict__.items():
            if not name.startswith("_") and name not in annotated:
                _check_member(cls, base, name, value)
        for name in annotated:
            if isinstance(getattr(base, name, None), FunctionType):
                _check_plain(cls, base, name, cls.__dict__.get(name), cls.__dict__.get(name))
            near = get_close_matches(name, _known(cls, base), 1, cutoff=0.75)
            if name not in _known(cls, base) and near and "ClassVar" in str(annotated[name]):
                what = f"{line_of_field(cls, name)}: {cls.__name__}.{name}"
                raise UserError(f"{what} is nothing that a rule has: did you mean {near[0]}?")
    if issubclass(rule, Part):
        for need in _stated(rule):
            if need not in set(Need):
                near = get_close_matches(str(need), list(Need), 1)
                hint = f"did you mean {near[0]}?" if near else f"needs are {', '.join(Need)}"
                raise UserError(f"{line_of_field(rule, 'needs')}: {rule.__name__}.needs={need}: {hint}")


def _stated(rule: Any) -> list[Any]:
    return list(rule.needs) if isinstance(rule.needs, frozenset | set | tuple | list) else [rule.needs]


def base_of(rule: type) -> type:
    """The class of `policies.base` that a rule is derived from."""
    return next(cls for cls in rule.__mro__ if cls.__module__ == "policies.base")


def own_classes(rule: type) -> list[type]:
    """The classes of a rule that are not shipped."""
    return [
        cls for cls in rule.__mro__ if cls.__module__ != "policies.base" and cls is not object and not is_shipped(cls)
    ]


def _known(cls: type, base: type) -> set[str]:
    """What a class may define: what its part has, and what shipped classes that it derives from have."""
    shipped = [other for other in cls.__mro__[1:] if other is not object and is_shipped(other)]
    return {name for other in (base, *shipped) for name in dir(other) if not name.startswith("_")}


def _check_member(cls: type, base: type, name: str, value: Any) -> None:
    function = getattr(value, "__func__", value)
    known = _known(cls, base)
    if isinstance(getattr(base, name, None), FunctionType):
        _check_plain(cls, base, name, value, function)
    if not isinstance(function, FunctionType):
        if (
            name not in known
            and not any(name in vars(other) for other in cls.__mro__[1:])
            and not isinstance(value, property)
        ):
            raise UserError(
                f"{line_of_field(cls, name)}: {cls.__name__}.{name} is no knob without its type: write {name}: "
                f"{type(value).__name__} = ..., or begin a helper's name with _"
            )
        return
    decisions = [
        other for other, (part, _) in DECISIONS.items() if hasattr(base, other) and part == base.__name__.lower()
    ]
    if name not in known:
        near = get_close_matches(name, known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"its decisions are {', '.join(sorted(decisions)) or 'none'}."
        raise UserError(
            f"{place_of(function)}: {cls.__name__}.{name} is no decision of policy/{base.__name__.lower()}: {hint} "
            "A helper's name begins with _"
        )
    if hasattr(base, name):
        _check_parameters(cls, base, name, value, name in decisions)
    if name in decisions:
        check_body(cls, name, function)


def _check_plain(cls: type, base: type, name: str, value: Any, function: Any) -> None:
    """Raises: UserError where what stands for a method is none that is called with an instance and returns at once."""
    plain = isinstance(function, FunctionType) and not isinstance(value, classmethod)
    if plain and not inspect.iscoroutinefunction(function) and not inspect.isasyncgenfunction(function):
        return
    kind = "a coroutine" if plain else f"a {type(value).__name__}"
    where = place_of(function) if isinstance(function, FunctionType) else line_of_field(cls, name)
    wanted = ", ".join(inspect.signature(getattr(base, name)).parameters)
    raise UserError(f"{where}: {cls.__name__}.{name} is {kind}: must be a method, as def {name}({wanted})")


def _check_parameters(cls: type, base: type, name: str, value: Any, decision: bool) -> None:
    """Raises: UserError where a method takes other things than that of the part does."""
    function = getattr(value, "__func__", value)
    wanted = list(inspect.signature(getattr(base, name)).parameters)
    static = isinstance(value, staticmethod)
    if static and decision:
        wanted = ["state", "knobs", *wanted[2:]]
    elif static:
        wanted = wanted[1:]
    given = inspect.signature(function).parameters
    plain = all(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in given.values())
    misplaced = not static and list(given)[:1] == ["state"]
    if plain and len(given) == len(wanted) and not misplaced:
        return
    mend = f"{name}({', '.join(inspect.signature(getattr(base, name)).parameters)})"
    also = ", reading knobs as self.NAME" if decision else ""
    kind = "@staticmethod " if static else ""
    raise UserError(
        f"{place_of(function)}: {cls.__name__} defines {kind}{name}({', '.join(map(str, given))}): must be {mend}{also}"
    )


def check_body(cls: type, name: str, function: FunctionType) -> None:
    """Raises: UserError where a decision builds what compiled code should not, or is not determined by its state."""
    for node, line in _nodes(function):
        where = f"{function.__code__.co_filename}:{line}: {cls.__name__}.{name}"
        kind = CONTAINERS.get(type(node))
        if kind is None and isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            kind = f"{node.func.id}()"
        if kind is not None:
            raise UserError(
                f"{where} uses {kind}: a decision only loops and calculates; what it keeps goes into its memory "
                "(memory_size cells) or into an array of np.zeros"
            )
        text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        if text in RANDOM:
            raise UserError(
                f"{where} reads {text}: two runs would differ; draw with policies.hashing.uniform(state.seed, "
                "state.now, ...)"
            )
        if _is_whole_power(node):
            raise UserError(
                f"{where} computes {ast.unparse(node)}: compiled, a power of a whole number wraps around at 64 bits, "
                f"which a trial need not reach; write {ast.unparse(node).replace(' **', '.0 **', 1)}"
            )


def _is_whole_power(node: ast.AST) -> bool:
    """Whether an expression raises a whole number that is written out to a power that is not, as `2 ** state.now`."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and isinstance(node.left, ast.Constant)
        and type(node.left.value) is int
        and abs(node.left.value) > 1
        and not isinstance(node.right, ast.Constant)
    )


def _nodes(function: FunctionType) -> Iterator[tuple[ast.AST, int]]:
    """What a function's body consists of, with the line in its file; nothing where its source is not to be had."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return
    for statement in tree.body[0].body if isinstance(tree.body[0], ast.FunctionDef) else []:
        for node in ast.walk(statement):
            yield node, first + getattr(node, "lineno", statement.lineno) - 1


def check_knobs(rule: type, values: Mapping[str, Any]) -> None:
    """Raises: UserError for a knob that is no finite number."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"policy.{base_of(rule).__name__.lower()}.{name}={value}: must be a finite number")


def about_field(rule: type, error: UserError) -> str:
    """FILE:LINE of the field that a sentence is about, else of the class."""
    found = re.match(r"policy\.\w+\.(\w+)", str(error))
    return place_of(rule) if found is None else line_of_field(rule, found[1])


def fault_of(rule: type, error: Exception) -> str:
    """FILE:LINE of a rule's own code where an error arose, and what it is."""
    own = {inspect.getsourcefile(cls) for cls in own_classes(rule)}
    mine = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    where = f"{mine[-1].filename}:{mine[-1].lineno}" if mine else place_of(rule)
    return f"{where}: {rule.__name__} ends in {type(error).__name__}: {' '.join(str(error).split())}"


def check_ranges(part: Rule) -> None:
    """Raises: UserError where a numeric knob of a rule takes anything: its range has to be stated."""
    rule = type(part)
    if not is_dataclass(part) or not own_classes(rule):
        return
    hints = get_type_hints(rule)
    for knob in fields(part):
        kinds = get_args(hints[knob.name]) or (hints[knob.name],)
        if not knob.init or bool in kinds or not (int in kinds or float in kinds):
            continue
        extremes = [float("nan")] if float in kinds else [-(2**62), 2**62]
        if not any(_refused(part, knob.name, value) for value in extremes):
            name = f"policy.{type_name(part)}.{knob.name}"
            raise UserError(
                f"{line_of_field(rule, knob.name)}: {rule.__name__}.{knob.name} takes any number: state its range in "
                f'__post_init__, as require("{name}", self.{knob.name}, LOW, HIGH)'
            )


def _refused(part: Any, name: str, value: float) -> bool:
    try:
        replace(part, **{name: value})
    except UserError:
        return True
    except Exception as error:
        raise UserError(
            f"{place_of(type(part))}: {type(part).__name__} answers {name}={value} with {type(error).__name__}: check "
            f'it in __post_init__ by require("policy.{type_name(part)}.{name}", self.{name}, LOW, HIGH)'
        ) from error
    return False
