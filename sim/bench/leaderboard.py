"""The leaderboard as a table for the terminal, a CSV, and one HTML file without scripts or addresses."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from textwrap import wrap

import pandas as pd

from sim.bench.score import CLASSES, DECIMALS, MARGINS, Score, ranked
from sim.bench.suite import BATCHES, CELLS, VERSION
from sim.bench.text import EVALUATED
from traces.text import printable, short_name, spreadsheet_cell
from traces.whole_file import write_whole

SHIPPED = Path(__file__).with_name("shipped.csv")
"""Scores of the package's own policies, made by `python -m sim bench all out=FOLDER`."""
ABOUT = (
    f"Suite {VERSION}: 18 requests of the embedded trace, {len(CELLS)} cells of machine, runtime, budget and batch "
    f"size {' and '.join(map(str, BATCHES))}, times SIMULATED. Score: share of the gap between on_demand (0) and "
    "all_resident (1) in decode time that is closed, mean over cells; 95 % over requests, in pairs: the same requests "
    "are drawn for every policy and both ends, and the ranks in 95 % of those draws say how stable a rank is. "
    "Lossless policies execute every expert as it was routed. Where a policy replaces experts, KL is MEASURED: "
    f"divergence of the demo model's output from the untouched one's, nats per token, mean over {EVALUATED} windows of "
    "held-out text with its 95 % interval over documents, in the worst of the cells; its upper end decides the class. "
    f"{MARGINS[0]} and {MARGINS[1]} are what Llama-3-8B loses by Q5_K_M and Q4_K_M (PUBLISHED by llama.cpp), a "
    "yardstick from another model. Mass: gate mass lost in decode steps of the worst cell."
)
STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #ccc}"
    "td:first-child,th:first-child{text-align:left}caption{text-align:left;font-weight:600;margin-top:1.2rem}"
)


def table(scores: Sequence[Score]) -> pd.DataFrame:
    """A row per policy, class by class, best first. Bounds, ends and what was not measured have no rank."""
    rows = []
    for one, rank, (least, most) in ranked(scores):
        has_rank, quality = one.kind in CLASSES, one.quality
        ranks = (str(rank), f"{least} to {most}") if has_rank else ("", "")
        row = {"class": one.kind, "rank": ranks[0], "ranks_95": ranks[1], "policy": one.policy}
        row |= {"score": f"{one.value:.{DECIMALS}f}", "low": f"{one.low:.4f}", "high": f"{one.high:.4f}"}
        row |= {f"batch_{batch}": f"{value:.4f}" for batch, value in zip(BATCHES, one.by_batch, strict=True)}
        known = quality is not None and not quality.why
        row |= {"worst_cell": f"{one.worst_cell:.4f}", "lost_gate_mass": f"{one.lost:.4f}"}
        for name, value in ("kl", "kl"), ("kl_low", "low"), ("kl_high", "high"):
            row[name] = f"{getattr(quality, value):.4f}" if known else ""
        row |= {"note": "" if quality is None else quality.why}
        rows.append(row | {"suite": str(VERSION), "label": "times SIMULATED, KL MEASURED"})
    return pd.DataFrame(rows)


def text(found: pd.DataFrame) -> str:
    """The table for a terminal."""
    lines = [*wrap(ABOUT, 118), ""]
    for kind, rows in found.groupby("class", sort=False):
        lines.append(
            f"{kind:<38}{'score':>7}{'95 %':>18}{'batch 1':>9}{'batch 4':>9}{'worst':>8}"
            f"{'KL':>8}{'to':>8}{'mass':>8}  rank"
        )
        for _, row in rows.iterrows():
            interval, ranked_as = f"{row['low']} to {row['high']}", f"{row['rank']} ({row['ranks_95']})"
            lines.append(
                f"  {name_of(row):<36}{row['score']:>7}{interval:>18}{row['batch_1']:>9}{row['batch_4']:>9}"
                f"{row['worst_cell']:>8}{row['kl'] or '-':>8}{row['kl_high'] or '-':>8}{row['lost_gate_mass']:>8}"
                f"  {ranked_as if row['rank'] else '-'}"
            )
    return "\n".join([*lines, *notes(found)])


def name_of(row: pd.Series[str]) -> str:
    """A policy's name, as a line can show it."""
    return printable(short_name(row["policy"]))


def notes(found: pd.DataFrame) -> list[str]:
    """Why quality was not measured, a sentence for each policy."""
    return [
        f"{name_of(row)}: quality not measured: {printable(row['note'])}" for _, row in found.iterrows() if row["note"]
    ]


def html(found: pd.DataFrame) -> str:
    """The leaderboard as a page."""
    titles = {
        "policy": "policy", "score": "score", "low": "95 % from", "high": "to", "batch_1": "batch 1",
        "batch_4": "batch 4", "worst_cell": "worst cell", "kl": "KL", "kl_low": "95 % from", "kl_high": "to",
        "lost_gate_mass": "mass", "rank": "rank", "ranks_95": "in 95 %",
    }  # fmt: skip
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Leaderboard</title>"]
    parts.append("<meta name=viewport content='width=device-width'>")
    parts.append("<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">")
    parts.append(f"<style>{STYLE}</style><h1>Leaderboard</h1><p>{escape(ABOUT)}</p>")
    for kind, rows in found.groupby("class", sort=False):
        heads = "".join(f"<th>{one}</th>" for one in titles.values())
        parts.append(f"<table><caption>{escape(str(kind))}</caption><tr>{heads}</tr>")
        for _, row in rows.iterrows():
            cells = (printable(short_name(str(row[name]))) for name in titles)
            parts.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
        parts.append("</table>")
    parts += [f"<p>{escape(note)}</p>" for note in notes(found)]
    return "\n".join([*parts, "</html>", ""])


def write(folder: Path, found: pd.DataFrame) -> None:
    """leaderboard.csv and leaderboard.html, the same bytes for the same scores."""
    write_whole(folder / "leaderboard.csv", found.map(spreadsheet_cell).to_csv(index=False).encode())
    write_whole(folder / "leaderboard.html", html(found).encode())
