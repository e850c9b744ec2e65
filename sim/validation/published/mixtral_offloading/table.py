"""Published runs of Mixtral-8x7B with offloading: one row of measured.csv per run, and how many tokens it generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.validation.published.csv_rows import read_rows
from traces.errors import UserError

NUM_EXPERTS = 8
COLUMNS = ("gpu", "offload_per_layer", "strategy", "max_new_tokens", "total_s", "tokens", "mean_hit_rate")
PROMPT_TOKENS = (20, 24, 28)
"""Least, usual and most tokens of the published benchmark prompts."""


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """One run: all its prompts one after the other. ``tokens`` counts prompts and answers."""

    gpu: str
    offloaded: int
    strategy: str
    max_new_tokens: int
    total_s: float
    tokens: int
    hit_rate: float | None

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.total_s

    @property
    def num_prompts(self) -> int:
        """Prompts are far shorter than answers, so the number of tokens tells how many there were."""
        return max(1, round(self.tokens / (self.max_new_tokens + PROMPT_TOKENS[1])))


def read_runs(path: Path) -> list[PublishedRun]:
    """The rows of measured.csv.

    Raises: UserError that names the line and the column that is missing, no number, or out of range.
    """
    runs = [_read_row(path.name, number, row) for number, row in enumerate(read_rows(path, COLUMNS), start=2)]
    if not runs:
        raise UserError(f"{path.name} has no rows after its column names")
    return runs


def _read_row(file: str, number: int, row: dict[str, str]) -> PublishedRun:
    values: dict[str, float] = {}
    whole = ("offload_per_layer", "max_new_tokens", "tokens")
    for name, most in (
        ("offload_per_layer", NUM_EXPERTS),
        ("max_new_tokens", 1e6),
        ("total_s", 1e9),
        ("tokens", 1e9),
        ("mean_hit_rate", 1.0),
    ):
        if name == "mean_hit_rate" and not (row[name] or "").strip():
            continue  # not known
        try:
            values[name] = float(row[name])
        except (TypeError, ValueError) as error:
            raise UserError(f"{file} line {number}: {name}={row[name]!r}; a number is needed") from error
        least = 0.0 if name in ("offload_per_layer", "mean_hit_rate") else 1e-9
        if not least <= values[name] <= most or (name in whole and not values[name].is_integer()):
            raise UserError(f"{file} line {number}: {name}={row[name]} is out of range")
    return PublishedRun(
        row["gpu"].strip(),
        int(values["offload_per_layer"]),
        row["strategy"].strip(),
        int(values["max_new_tokens"]),
        values["total_s"],
        int(values["tokens"]),
        values.get("mean_hit_rate"),
    )


def generated_tokens(runs: Sequence[PublishedRun]) -> list[int]:
    """Tokens that each run generated; the prompts' own are not published and follow from the rest of the table.

    Most answers run to `max_new_tokens`, and runs of equally many prompts mostly read the same ones: what the most rows
    have beyond num_prompts * max_new_tokens is taken for the prompts' tokens. A row with fewer had an answer that
    ended early, one with more had other prompts. Rows that fit no prompts of 20 to 28 tokens count 24 for each.
    """
    excess: dict[int, Counter[int]] = {}
    least, usual, most = PROMPT_TOKENS
    for run in runs:
        beyond, prompts = run.tokens - run.num_prompts * run.max_new_tokens, run.num_prompts
        if least * prompts <= beyond <= most * prompts:
            excess.setdefault(prompts, Counter())[beyond] += 1
    generated = []
    for run in runs:
        prompts, counts = run.num_prompts, excess.get(run.num_prompts)
        prompt_tokens = usual * prompts if counts is None else max(counts, key=lambda count: (counts[count], count))
        generated.append(min(prompts * run.max_new_tokens, max(prompts, run.tokens - prompt_tokens)))
    return generated
