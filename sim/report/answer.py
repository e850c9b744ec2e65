"""The answer in three sentences: which policy is best and by how much, what limits it, what cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sim.figures.attribution import PART_LOOK
from sim.figures.bounds import FILE, answers
from sim.report.comparison import TIME, Comparison
from sim.report.words import interval, milliseconds, percent
from sim.results.table import PARTS

NAMED = 6
"""Runs that the last sentence names; of more it gives the number."""


def answer(found: Sequence[Comparison]) -> list[str]:
    """Three sentences; fewer where there is nothing to say."""
    if not found:
        return ["No run has a time or a hit rate, so there is nothing to compare."]
    first = found[0]
    return [best_sentence(found), limit_sentence(first.best), sure_sentence(first)]


def best_sentence(found: Sequence[Comparison]) -> str:
    """Which policy is best, by how much, at what price."""
    one = found[0]
    best, timed = one.best, one.metric == TIME
    value = spoken_value(best, one.metric)
    where = conditions(best)
    if len(one.runs) == 1:
        return f"{best['contender']} was the only contender {where}: {value}{price(best)}."
    what = "lowest time per output token" if timed else "highest hit rate"
    sentence = f"{best['contender']} has the {what} {where}, {value}{price(best)}"
    rival = one.rivals.iloc[0]
    name = one.runs.set_index("series")["contender"].get(rival["series"], rival["series"])
    of = f"the next best of {len(one.runs) - 1}" if len(one.runs) > 2 else "the only other contender"
    sentence += f"; that is {difference(rival, timed)} than {name}, {of}"
    if len(found) > 1:
        same = sum(str(other.best["contender"]) == str(best["contender"]) for other in found)
        sentence += f"; under the {len(found)} conditions that were run it is best {same} times"
    return sentence + "."


def difference(rival: Any, timed: bool) -> str:
    """By how much the best beats a rival, from the interval of rival - best or rival / best."""
    if timed:
        less = [1 - 1 / rival[name] for name in ("ratio", "ratio_high", "ratio_low")]
        low, high = sorted(less[1:])
        return f"{percent(less[0])}{interval(low, high, 100.0, '.1f')} less"
    low, high = sorted(-float(rival[f"difference_{end}"]) for end in ("low", "high"))
    return f"{-100 * rival['difference']:.1f}{interval(low, high, 100.0, '.1f')} points more"


def price(run: Any) -> str:
    """What the best pays in quality, where it replaces or drops experts."""
    lost = run.get("decode.lost_gate_mass", float("nan"))
    if not lost > 0:
        return ""
    return f", at the price of {percent(lost)} of the gate mass of decode steps that is not executed as routed"


def conditions(run: Any) -> str:
    """Under which conditions, in words."""
    batch = f"batch size {run['batch_size']}"
    return f"at {100 * run['capacity']:.3g} % of the experts on {run['setup']}, workload {run['workload']}, {batch}"


def spoken_value(run: Any, metric: str) -> str:
    """The metric of a run with its interval."""
    stem = metric.removesuffix(".mean")
    low, high = run.get(f"{stem}.low"), run.get(f"{stem}.high")
    if metric == TIME:
        return f"{milliseconds(run[metric])}{interval(low, high, 1e3, '.2f')}"
    return f"{percent(run[metric])}{interval(low, high, 100.0, '.1f')}"


def limit_sentence(run: Any) -> str:
    """What limits the best: what its what-if replays say, else the largest part of its time."""
    path = Path(str(run["folder"])) / FILE
    if path.is_file():
        first = answers(path)[0]
        return f"For {run['contender']}, {first['binding']}; {first['bound']}."
    parts = {part: float(run.get(f"time_s_per_token.{part}", 0.0) or 0.0) for part in PARTS}
    parts = {part: value for part, value in parts.items() if value == value}
    whole = sum(parts.values())
    if not whole:
        return "What limits it is not known: these runs have no clock (engine=compiled gives one)."
    largest = max(parts, key=lambda part: parts[part])
    word = PART_LOOK[largest][0]
    return (
        f"The largest part of its time per token is {word}, {percent(parts[largest] / whole)}; "
        "what_if=true replays it with one thing idealised at a time and says what binds."
    )


def sure_sentence(one: Comparison) -> str:
    """What cannot be told from the best."""
    rivals = one.rivals
    if rivals.empty:
        return "With one contender there is nothing to tell apart: add policies with python -m sim run -m policy=A,B."
    if rivals["p_holm"].isna().all():
        return "One batch of requests was replayed: its noise is not known, so nothing can be told apart for certain."
    names = one.runs.set_index("series")["contender"]
    equal = [str(names.get(series, series)) for series in rivals[~rivals["distinguishable"].astype(bool)]["series"]]
    many = f"the {len(rivals)} other contenders" if len(rivals) > 1 else "the other contender"
    corrected = "95 %, paired over the same requests, corrected for all pairs by Holm"
    if not equal:
        return f"It can be told from {many} ({corrected})."
    listed = ", ".join(equal[:NAMED]) + (f" and {len(equal) - NAMED} more" if len(equal) > NAMED else "")
    if len(equal) < len(rivals):
        return f"Not distinguishable from it: {listed}; the rest of {many} is ({corrected})."
    return f"Not distinguishable from it: {listed}, so the order of all contenders may be chance ({corrected})."


def limits(table: pd.DataFrame) -> list[dict[str, str]]:
    """What every run that asked what if says limits it."""
    found = []
    for _, run in table.iterrows():
        path = Path(str(run["folder"])) / FILE
        if path.is_file():
            first = answers(path)[0]
            found.append({"run": _full_name(run), "binding": str(first["binding"]), "bound": str(first["bound"])})
    return found


def _full_name(run: Any) -> str:
    return f"{run['name']}, {100 * run['capacity']:.3g} %"
