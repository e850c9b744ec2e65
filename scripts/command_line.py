"""What all scripts share: their command line, tables, and the variables of children that must find this checkout."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from sim.paths import ROOT
from traces.errors import UserError


def parser_of(docstring: str | None) -> argparse.ArgumentParser:
    """A parser whose --help is the docstring as it is written."""
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)


def run(main: Callable[[list[str]], object]) -> None:
    """End the process with what `main` returns; a UserError is one sentence and status 2."""
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def print_table(title: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Print a title and rows under the names of their cells; the first cell names the row, a missing one is empty."""
    frame = pd.DataFrame([*rows])
    name = frame.columns[0]
    text = frame.set_index(name).rename_axis(index=None, columns=name).to_string(na_rep="")
    print(f"\n{title}\n{text}", flush=True)


def environment(**changes: str | None) -> dict[str, str]:
    """This process's variables with this checkout on the path; `changes` are set, or taken away by None."""
    variables: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    return {name: value for name, value in variables.items() if value is not None}
