"""Importers of foreign routing records, one module per format; a new file in this folder is a new format.

May import traces.format and errors. A module whose name begins with an underscore is none. Start at `Importer`, which
says what a module must offer, then `lattice`, the plainest format, and `table`, which reads it.
"""

import argparse
import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from traces.errors import UserError
from traces.format.trace import Trace


class Importer(Protocol):
    """What a module of this folder offers.

    The first line of its docstring says what it reads; `EXAMPLE`: arguments of `python -m sim import` for it.
    """

    __doc__: str | None
    EXAMPLE: str

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the format's own options to the command line."""

    def read(self, source: Path, options: argparse.Namespace) -> Trace:
        """The trace in `source`; UserError for a malformed one."""


def importer_names() -> tuple[str, ...]:
    """All formats, by name of their module."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def load_importer(name: str) -> Importer:
    """The importer of format `name`.

    Raises: UserError if there is none.
    """
    if name not in importer_names():
        raise UserError(f"FORMAT={name}: must be one of {', '.join(importer_names())}")
    return cast(Importer, importlib.import_module(f"{__name__}.{name}"))
