"""The text on which quality is measured, kept as tokens of the demo model so that it is the same everywhere."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from sim.quality.windows import Windows
from traces.errors import UserError

FILE = Path(__file__).with_name("text.json")
"""Written by `python -m scripts.maintenance.bench_text`."""
EVALUATED, LEARNED_FROM, TOKENS = 12, 16, 128
"""Windows on which quality is measured, each of another document; further ones for rules that learn; their length."""
HASH = "f840e1d83956ff8f69e3a3873859f8a370e54f33181e193550a00073b28201b9"


@cache
def frozen_text() -> Windows:
    """The evaluated windows, then those to learn from. Raises: UserError where they are not those of the suite."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))["windows"]
    found = Windows(
        np.array([row["tokens"] for row in rows], np.int64),
        tuple(row["document"] for row in rows),
        tuple(row["domain"] for row in rows),
    )
    if found.digest() != HASH:
        raise UserError(f"{FILE} was changed: the suite's text has the hash {HASH[:12]}; install the package again")
    return found
