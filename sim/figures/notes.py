"""The sentences under a figure: what was run, how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from sim.formatting import shortlist
from sim.machine.runtime import OWN_RUNTIME
from sim.results.table import AND, FIRST_ORDER, METHOD, PLAUSIBLE

SETTINGS = ("trace", "model", "hardware")


def footnote(table: pd.DataFrame, interval: bool) -> str:
    """What a reader must know to judge the figure: label, what was run, intervals, and what is only estimated."""
    label = "/".join(sorted({str(label) for label in table["label"]}))
    settings = [f"{key} {values[0]}" for key in SETTINGS if len(values := values_of(table, key)) == 1]
    settings += runtime_words(table)
    batch = values_of(table, "batch_size")
    settings += [f"batch size {batch[0]}"] if len(batch) == 1 else []
    text = f"{label}: {', '.join(settings)}." if settings else f"{label}."
    if interval:
        counts = sorted({int(count) for count in table["requests"]})
        blocks = "requests" if batch == ["1"] else "batches of requests"
        text += f" Bars: 95\u00a0% bootstrap over {spread(counts)} {blocks}{machine_words(table)}.{other_bars(table)}"
    text += different_requests(table)
    sentences = dict.fromkeys(sentence for one in table["estimated"] for sentence in one)
    return " ".join([text, *(f"ESTIMATED: {sentence.rstrip('.')}." for sentence in sentences)])


def spread(counts: Sequence[int]) -> str:
    """Some counts in rising order: all of few, else the least and the largest."""
    return " or ".join(map(str, counts)) if len(counts) < 4 else f"{counts[0]} to {counts[-1]}"


def runtime_words(table: pd.DataFrame) -> list[str]:
    """Which runtime, and whether it is the same for all or each policy has its own; none where it is not known."""
    kinds, names = values_of(table, "comparison"), values_of(table, "runtime")
    if kinds == [OWN_RUNTIME]:
        return [OWN_RUNTIME]
    if len(kinds) == 1 and len(names) == 1:
        return [f"runtime {names[0]} ({kinds[0]})"]
    return [f"runtimes {', '.join(names)}"] if names else []


def machine_words(table: pd.DataFrame) -> str:
    """What else intervals of times hold: the uncertainty of the machine, and how it is known."""
    methods = values_of(table, "interval_method")
    found = [method.removeprefix(METHOD) for method in methods if method != METHOD]
    if not found:
        return ""
    words = [found[0], *(one.removeprefix(AND) for one in found[1:])]
    return f"{' or '.join(words)}{'' if len(found) == len(methods) else ' where its files state errors'}"


DAGGER = "\u2020"


def by_first_order(table: pd.DataFrame) -> pd.Series[bool]:
    """Which runs' intervals hold the machine's errors by first order where those of others come from replays."""
    methods = list(map(str, table["interval_method"])) if "interval_method" in table else [""] * len(table)
    mixed = any(method.endswith(PLAUSIBLE) for method in methods)
    return pd.Series([mixed and method.endswith(FIRST_ORDER) for method in methods], table.index, dtype=bool)


def marked(table: pd.DataFrame, column: str = "name") -> pd.DataFrame:
    """The table with a dagger after the name of every run `by_first_order`."""
    if column not in table:
        return table
    marks = by_first_order(table).map({True: f" {DAGGER}", False: ""})
    return table.assign(**{column: table[column].astype(str) + marks}) if marks.any() else table


def mark_legends(figure: Figure, table: pd.DataFrame) -> None:
    """A dagger in legends that name runs `by_first_order` without what else they differ in."""
    names = set(table.loc[by_first_order(table), "contender"]) if "contender" in table else set()
    for text in [text for legend in figure.legends for text in legend.get_texts()]:
        if text.get_text() in names:
            text.set_text(f"{text.get_text()} {DAGGER}")


def other_bars(table: pd.DataFrame) -> str:
    """What the dagger means, and whose it is; empty where all intervals are of one kind."""
    column = "contender" if "contender" in table else "series"
    names = list(dict.fromkeys(map(str, table.loc[by_first_order(table), column]))) if column in table else []
    if not names:
        return ""
    return (
        f" {DAGGER} Not replayed on plausible machines ({shortlist(names, 3)}): bars by first order, "
        "narrower or wider than by replays, are not to be compared with the others."
    )


def different_requests(table: pd.DataFrame) -> str:
    """Which runs replayed other requests than most, under the same conditions: their points are of those."""
    if not {"conditions", "num_requests", "trace_hash", "series"} <= set(table):
        return ""
    said = {}
    for _, group in table.groupby("conditions", sort=False):
        usual = group["trace_hash"].mode().iloc[0]
        for _, run in group[group["trace_hash"] != usual].iterrows():
            said[str(run["policy"])] = int(run["num_requests"])
    return "".join(f" {policy} replayed other requests than the rest ({count})." for policy, count in said.items())


def values_of(table: pd.DataFrame, key: str) -> list[str]:
    """The different values of a column as words, sorted; none where it is missing."""
    return sorted({str(value) for value in table[key] if value is not None}) if key in table else []
