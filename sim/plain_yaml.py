"""Reads YAML files as plain data: nothing in them is interpolated, constructed or believed to be small."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from traces.errors import UserError
from traces.whole_input import read_bounded

MOST_BYTES, MOST_NODES, MOST_DEPTH = 1 << 20, 100_000, 64
LETTERS = 100
"""Of one file; an alias counts as often as what it stands for, and a long text as one value for so many letters."""
_FLOAT = re.compile(
    r"""[-+]?(?:(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |\.[0-9_]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z""",
    re.VERBOSE,
)
MERGE = "tag:yaml.org,2002:merge"
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]
    """Plain scalars as the configuration system reads them: `1e9` is a number, a date is text."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping without a key that stands twice."""
        keys = [str(key.value) for key, _ in node.value if key.tag != MERGE]
        if len(set(keys)) < len(keys):
            twice = next(key for key, count in Counter(keys).items() if count > 1)
            raise yaml.constructor.ConstructorError(None, None, f"found duplicate key {twice}", node.start_mark)
        return super().construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":timestamp", ":float"))]
    for first, pairs in _BASE.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_plain_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file as dicts with text for keys, lists, texts, numbers, booleans and None.

    `${...}` stays the text it is. Raises: UserError naming ``what`` it is where it cannot be read, holds anything else,
    or is larger than a file of settings ever is.
    """
    data = read_bounded(path, MOST_BYTES, what)
    try:
        _check_size(yaml.parse(data, Loader=_Loader), f"{what} {path}")
        return _plain(yaml.load(data, Loader=_Loader), f"{what} {path}")
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{what} {path} cannot be read: {error}") from error


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """`read_plain_yaml` of a file of names and values. Raises: UserError as that, and for any other content."""
    content = read_plain_yaml(path, what)
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} must hold a list of `field: value` lines")
    return content


def _check_size(events: Iterator[Any], name: str) -> None:
    """Raises: UserError where the nodes, aliases expanded, are too many or too deep."""
    total, sizes = 0, dict[str, int]()
    begun: list[tuple[str | None, int]] = []
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, MOST_NODES + 1)  # of itself: endless
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value) // LETTERS
            total += size
            if event.anchor is not None:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, total))
            sizes.pop(event.anchor, None)
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        if total > MOST_NODES:
            raise UserError(f"{name} holds more than {MOST_NODES} values once its aliases are written out")
        if len(begun) > MOST_DEPTH:
            raise UserError(f"{name} is nested deeper than {MOST_DEPTH} levels")


def _plain(value: Any, name: str) -> Any:
    """The same where it is plain data. Raises: UserError."""
    if isinstance(value, dict):
        return {_key(key, name): _plain(inner, name) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, name) for inner in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise UserError(f"{name} holds a {type(value).__name__}: must be texts, numbers, lists and names with values")


def _key(key: Any, name: str) -> str:
    if not isinstance(key, str | int | float):
        raise UserError(f"{name} holds the name {key!r}: must be a text")
    return str(key)
