"""The answer in three sentences: which policy is best and by how much, what limits it, what cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sim.figures.drawings.attribution import PART_LOOK
from sim.figures.drawings.bounds import answers_of
from sim.formatting import DEPTHS, is_known, milliseconds, of_layers, percent, shortlist, with_interval
from sim.machine.parts import PARTS
from sim.machine.runtime import OWN_RUNTIME
from sim.report.comparison import HITS, Comparison
from sim.results.table import bounds_of

LOWEST = {"tpot_s.mean": "lowest time per output token", "itl_s.mean": "shortest decode steps"}
BRACKETS = " (in brackets: 95 % intervals)"
SHOWN_NAMES = 6
"""Runs that the last sentence names; of more it gives the number."""


def answer(comparisons: Sequence[Comparison]) -> list[str]:
    """Three sentences; fewer where there is nothing to say."""
    if not comparisons:
        return ["No run has a time or a hit rate, so there is nothing to compare."]
    first = comparisons[0]
    return [best_sentence(comparisons), limit_sentence(first.best), certainty_sentence(first)]


def best_sentence(comparisons: Sequence[Comparison]) -> str:
    """Which policy is best, by how much, at what price."""
    first = comparisons[0]
    best, timed = first.best, first.metric != HITS
    value = value_and_interval(best, first.metric)
    value += BRACKETS if "[" in value else ""
    name, what = str(best["contender"]), LOWEST.get(first.metric, "highest hit rate")
    if len(first.runs) == 1:
        return f"{name} was the only policy that was run {conditions(best)}: {value}.{price(best)}"
    sentence = f"{name} has the {what}: {value}. This is {conditions(best)}."
    if first.rivals.empty:
        return f"{sentence} No other policy replayed requests in common with it.{price(best)}"
    rival = first.rivals.iloc[0]
    other = first.runs.set_index("series")["contender"].get(rival["series"], rival["series"])
    rank = f"the next best of {len(first.runs) - 1} others" if len(first.runs) > 2 else "the only other policy"
    than = f"{'time ' if timed else ''}than {other}, {rank}"
    sentence += f" It {'takes' if timed else 'has'} {lead(rival, timed)} {than}.{price(best)}"
    if len(comparisons) > 1:
        wins = sum(str(other.best["contender"]) == name for other in comparisons)
        sentence += (
            f" Of the {len(comparisons)} cases that were run (capacities, machines, workloads, batch sizes) it is best "
            f"in {'all' if wins == len(comparisons) else wins}."
        )
    return sentence


def lead(rival: Any, timed: bool) -> str:
    """By how much the best beats a rival, from the interval of rival - best or rival / best."""
    if timed:
        less = [1 - 1 / rival[name] for name in ("ratio", "ratio_high", "ratio_low")]
        low, high = sorted(less[1:])
        return f"{with_interval(percent(less[0], unit=' %'), low, high, '.1f', 100.0)} less"
    low, high = sorted(-float(rival[f"difference_{end}"]) for end in ("low", "high"))
    points = f"{-100 * rival['difference']:.1f}"
    return f"{with_interval(points, low, high, '.1f', 100.0)} points more"


def price(run: Any) -> str:
    """What the best pays in quality, where it replaces or drops experts."""
    lost = run.get("decode.lost_gate_mass", float("nan"))
    if not lost > 0:
        return ""
    share = percent(lost, unit=" %")
    return f" The price: {share} of the gate mass of decode steps is not executed as routed, a proxy for lost quality."


def conditions(run: Any) -> str:
    """Under which conditions, in words."""
    batch = int(run["batch_size"])
    requests = "one request at a time" if batch == 1 else f"{batch} requests at a time"
    where = ", ".join(filter(None, [str(run["setup"]), on_runtime(run), f"workload {run['workload']}", requests]))
    return f"where {100 * run['capacity']:.3g} % of the experts fit in GPU memory ({where})"


def on_runtime(run: Any) -> str:
    """The runtime of a run and the comparison it belongs to; empty where that is not known."""
    if not isinstance(run.get("comparison"), str):
        return ""
    return OWN_RUNTIME if run["comparison"] == OWN_RUNTIME else f"runtime {run['runtime']} ({run['comparison']})"


def value_and_interval(run: Any, metric: str) -> str:
    """The metric of a run with its interval."""
    low, high = (run.get(name) for name in bounds_of(metric))
    if metric != HITS:
        time = with_interval(milliseconds(run[metric], ".2f"), low, high, ".2f", 1e3)
        rate = int(run["batch_size"]) / run[metric] if run[metric] > 0 else float("nan")
        layers = of_layers(*(run.get(name) for name in DEPTHS))
        return ", ".join(filter(None, [f"{time} {layers}".rstrip(), f"{rate:.4g} tokens/s" if is_known(rate) else ""]))
    return with_interval(percent(run[metric], unit=" %"), low, high, ".1f", 100.0)


def limit_sentence(run: Any) -> str:
    """What limits the best: what its what-if replays say, else the largest part of its time."""
    for first in answers_of(run)[:1]:
        return f"For {run['contender']}, {first['binding']}; {first['bound']}."
    times = {part: run.get(f"time_s_per_token.{part}") for part in PARTS}
    parts = {part: float(time_s) for part, time_s in times.items() if is_known(time_s)}
    whole = sum(parts.values())
    if not whole:
        return "What limits it is not known: these runs have no clock (engine=compiled gives one)."
    largest = max(parts, key=parts.__getitem__)
    word = PART_LOOK[largest][0]
    return (
        f"The largest part of its time per token is {word}, {percent(parts[largest] / whole, unit=' %')}; "
        "what_if=true replays it with one thing idealised at a time and says what binds."
    )


def certainty_sentence(comparison: Comparison) -> str:
    """What cannot be told from the best."""
    rivals = comparison.rivals
    if rivals.empty and len(comparison.runs) > 1:
        return "No other policy replayed requests in common with it, so nothing can be told apart."
    if rivals.empty:
        return "With one policy there is nothing to tell apart: add policies with python -m sim run -m policy=A,B."
    if rivals["p_holm"].isna().all():
        return "One batch of requests was replayed: its noise is not known, so nothing can be told apart for certain."
    names = comparison.runs.set_index("series")["contender"]
    equal = [str(names.get(series, series)) for series in rivals[~rivals["distinguishable"].astype(bool)]["series"]]
    others = f"the {len(rivals)} other policies" if len(rivals) > 1 else "the other policy"
    sure = "95 % sure, over the same requests, corrected for the number of pairs by Holm"
    if not equal:
        return f"Its lead over {others} is more than chance ({sure})."
    listed = shortlist(equal, SHOWN_NAMES)
    alone = only_alone(rivals)
    if len(equal) < len(rivals):
        return f"Its lead over {listed} may be chance; over the rest of {others} it is not ({sure}).{alone}"
    return f"Its lead over {listed} may be chance, so the order of all of them may be ({sure}).{alone}"


def only_alone(rivals: pd.DataFrame) -> str:
    """That an interval of one pair leaves out 0 while, corrected for all pairs, the lead may be chance."""
    if not {"p", "p_holm"} <= set(rivals):
        return ""
    near = rivals[(rivals["p"] < CHANCE) & (rivals["p_holm"] >= CHANCE)]
    if near.empty:
        return ""
    ends = near.iloc[0]
    return (
        f" An interval is of one pair alone: that of the lead over {ends['series']} leaves out 0 (p {ends['p']:.2g}), "
        f"corrected for all pairs it does not (p {ends['p_holm']:.2g})."
    )


CHANCE = 0.05


def limits(table: pd.DataFrame) -> list[dict[str, str]]:
    """What every run that asked what if says limits it."""
    return [
        {"run": f"{run['name']}, {100 * run['capacity']:.3g} %", "binding": first["binding"], "bound": first["bound"]}
        for _, run in table.iterrows()
        for first in answers_of(run)[:1]
    ]
