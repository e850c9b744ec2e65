"""In which parts the policies of compared runs differ, and what each loses of the gate mass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sim.group_files import PARTS
from sim.results.json_files import read_json
from sim.results.series import rule_name
from sim.results.table import group_of

MOST_SERIES = 12
LOST = "decode.lost_gate_mass"


def difference_lines(table: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """A line for each compared series: its rules in the parts in which the series differ, its lost gate mass.

    Nothing where there are more than ``MOST_SERIES``, or where no part differs and no gate mass is lost.
    """
    folders = dict(zip(pairs["series"], pairs["series_folder"], strict=True))
    folders |= dict(zip(pairs["against"], pairs["against_folder"], strict=True))
    if len(folders) > MOST_SERIES:
        return []
    rules = {series: _rules(Path(str(folder))) for series, folder in folders.items()}
    varied = [part for part in PARTS if len({one.get(part) for one in rules.values()}) > 1]
    lost = {series: _lost(table, series) for series in folders}
    if not varied and not any(lost.values()):
        return []
    lines = ["what differs besides the names (rules by part; gate mass not executed as routed in decode steps):"]
    width = max(map(len, folders))
    for series, one in rules.items():
        words = [f"{part} {one.get(part) or 'none'}" for part in varied]
        words.append(f"gate mass lost {lost[series] or '0 %'}")
        lines.append(f"  {series:<{width}}  {', '.join(words)}")
    return lines


def _rules(folder: Path) -> dict[str, str | None]:
    policy: Mapping[str, Any] = group_of(read_json(folder / "provenance.json"), "policy")
    groups = {part: policy.get(part) for part in PARTS}
    return {part: rule_name(group) for part, group in groups.items() if isinstance(group, dict)}


def _lost(table: pd.DataFrame, series: str) -> str:
    """The least and the largest share over the runs of a series; empty where nothing is lost."""
    if LOST not in table:
        return ""
    shares = [f"{100 * share:.1f}" for share in table.loc[table["series"] == series, LOST].dropna().sort_values()]
    ends = list(dict.fromkeys([*shares[:1], *shares[-1:]]))
    return "" if ends in ([], ["0.0"]) else f"{' to '.join(ends)} %"
