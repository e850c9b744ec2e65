"""The docstrings that help shows, also where Python was told to forget them (`python -OO`)."""

from __future__ import annotations

import ast
import inspect
import sys
from typing import Any

FORGOTTEN = sys.flags.optimize > 1


def docstring(module: Any) -> str:
    """The docstring of a module, "" where it has none."""
    if not FORGOTTEN:
        return str(module.__doc__ or "")
    return ast.get_docstring(ast.parse(inspect.getsource(module)), clean=False) or ""


def class_docstring(cls: type) -> str:
    """The docstring of a class without the indentation of its lines, "" where it has none."""
    if not FORGOTTEN:
        return inspect.getdoc(cls) or ""
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    return next((ast.get_docstring(node) or "" for node in tree.body if getattr(node, "name", "") == cls.__name__), "")  # type: ignore[arg-type]
