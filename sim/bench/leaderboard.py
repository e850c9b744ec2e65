"""The leaderboard as a table for the terminal, a CSV, and one HTML file without scripts or addresses."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from sim.bench.score import DECIMALS, Score, ranked
from sim.bench.suite import BATCHES, CELLS, VERSION
from traces.text import printable, short_name, spreadsheet_cell
from traces.whole_file import write_whole

SHIPPED = Path(__file__).with_name("shipped.csv")
"""Scores of the package's own policies, made by `python -m sim bench all out=FOLDER`."""
ABOUT = (
    f"Suite {VERSION}, SIMULATED: 18 requests of the embedded trace, {len(CELLS)} cells of machine, runtime, budget "
    f"and batch size {' and '.join(map(str, BATCHES))}. Score: share of the gap between on_demand (0) and all_resident "
    "(1) in decode time that is closed, mean over cells; 95 % over requests. Classes by the gate mass lost in the "
    "worst cell, which is a proxy of quality and no measure of it."
)
STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #ccc}"
    "td:first-child,th:first-child{text-align:left}caption{text-align:left;font-weight:600;margin-top:1.2rem}"
)


def table(scores: Sequence[Score]) -> pd.DataFrame:
    """A row per policy, class by class, best first."""
    rows = []
    for one, rank, (least, most) in ranked(scores):
        row = {"class": one.kind, "rank": rank, "ranks_95": f"{least} to {most}", "policy": one.policy}
        row |= {"score": f"{one.value:.{DECIMALS}f}", "low": f"{one.low:.4f}", "high": f"{one.high:.4f}"}
        row |= {f"batch_{batch}": f"{value:.4f}" for batch, value in zip(BATCHES, one.by_batch, strict=True)}
        row |= {"worst_cell": f"{one.worst_cell:.4f}", "lost_gate_mass": "" if one.lost is None else f"{one.lost:.4f}"}
        rows.append(row | {"suite": str(VERSION), "label": "SIMULATED"})
    return pd.DataFrame(rows)


def text(found: pd.DataFrame) -> str:
    """The table for a terminal."""
    lines = [ABOUT, ""]
    for kind, rows in found.groupby("class", sort=False):
        lines.append(f"{kind:<34}{'score':>7}{'95 %':>18}{'batch 1':>9}{'batch 4':>9}{'worst':>8}{'lost':>8}  rank")
        for _, row in rows.iterrows():
            name = printable(short_name(str(row["policy"])))
            interval = f"{row['low']} to {row['high']}"
            lines.append(
                f"  {name:<30}{row['score']:>9}{interval:>18}{row['batch_1']:>9}{row['batch_4']:>9}"
                f"{row['worst_cell']:>8}{row['lost_gate_mass'] or '-':>8}  {row['rank']} ({row['ranks_95']})"
            )
    return "\n".join(lines)


def html(found: pd.DataFrame) -> str:
    """The leaderboard as a page."""
    head = ("policy", "score", "low", "high", "batch_1", "batch_4", "worst_cell", "lost_gate_mass", "rank", "ranks_95")
    titles = ("policy", "score", "95 % from", "to", "batch 1", "batch 4", "worst cell", "mass lost", "rank", "in 95 %")
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Leaderboard</title>"]
    parts.append("<meta name=viewport content='width=device-width'>")
    parts.append("<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">")
    parts.append(f"<style>{STYLE}</style><h1>Leaderboard</h1><p>{escape(ABOUT)}</p>")
    for kind, rows in found.groupby("class", sort=False):
        parts.append(
            f"<table><caption>{escape(str(kind))}</caption><tr>{''.join(f'<th>{one}</th>' for one in titles)}</tr>"
        )
        for _, row in rows.iterrows():
            cells = (printable(short_name(str(row[name]))) for name in head)
            parts.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
        parts.append("</table>")
    return "\n".join([*parts, "</html>", ""])


def write(folder: Path, found: pd.DataFrame) -> None:
    """leaderboard.csv and leaderboard.html, the same bytes for the same scores."""
    write_whole(folder / "leaderboard.csv", found.map(spreadsheet_cell).to_csv(index=False).encode())
    write_whole(folder / "leaderboard.html", html(found).encode())
