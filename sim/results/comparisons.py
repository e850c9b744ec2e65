"""Runs of a table compared pair by pair, on the requests that both replayed; what is left out is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from sim.machine.runtime import OWN_RUNTIME
from sim.metrics.registry import quantity_of
from sim.results.run_files import load_run
from sim.results.series import by_number, chosen_baseline
from sim.statistics.pairs import FIRST_ORDER, compare, corrected_together
from sim.statistics.run_sample import Run, value_of
from traces.errors import UserError
from traces.format.sampling import FEWEST_CLUSTERS

MOST_PAIRS = 1000
"""Pairs beyond which runs are compared with the best of their conditions only."""
FEWEST_COMMON = 2
"""Batches that two runs must have in common to be compared."""
Batch = tuple[int, ...]
"""Numbers of the requests of a lockstep batch in the whole trace."""


FIRST_ORDER_NOTE = (
    "what the machine's uncertainty does is estimated by first order where runs were not replayed on plausible "
    "machines: it does not know that copies hide host time"
)
_CONDITIONS = (
    "layers",
    "model_layers",
    "recorded_layers",
    "capacity",
    "asked_capacity",
    "hardware",
    "model",
    "trace",
    "batch_size",
    "conditions",
)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """`pairs`: rows of `sim.statistics.pairs.compare` after columns that say under which conditions; `notes`: which
    pairs have fewer requests than their runs, what is in no pair and why, why there is no interval."""

    pairs: pd.DataFrame
    notes: tuple[str, ...]


def comparisons(table: pd.DataFrame, metric: str, baseline: str | None = None) -> pd.DataFrame:
    """The pairs of `compared`."""
    return compared(table, metric, baseline).pairs


def compared(table: pd.DataFrame, metric: str, baseline: str | None = None, machine: bool = True) -> Comparisons:
    """`pairs.compare` of all runs of `collect` that differ in their policy only, corrected for all pairs.

    Runs are compared where trace, batch size, machine, model, the capacity asked for and the runtime are the same, or
    each is on its own (`conditions`). Where one replayed other requests than another, such as a policy that holds some
    out to learn from, the pair is compared on the batches that both replayed, values too. Of equal runs the first
    counts. `baseline`: a series or a plain policy; without it all pairs, or, beyond ``MOST_PAIRS``, every run
    against the one of its conditions with the best value. `machine`: intervals count in the uncertainty of the
    machine. Empty where nothing is left to compare.

    Raises: UserError for an unknown metric or baseline.
    """
    named = set[str]() if baseline is None else chosen_baseline(table, baseline)
    tables, notes, paired = [], list[str](), set[str]()
    asked = pd.to_numeric(table["asked_capacity"], errors="coerce")
    ordered = (
        table.assign(order=asked).sort_values(["order", "series"], kind="stable", key=by_number).drop(columns="order")
    )
    groups = [rows for _, rows in ordered.drop_duplicates(["conditions", "series"]).groupby("conditions", sort=False)]
    most = sum(len(rows) * (len(rows) - 1) // 2 for rows in groups)
    only_best = baseline is None and most > MOST_PAIRS
    if only_best:
        notes.append(
            f"{most:,} pairs are more than {MOST_PAIRS:,}: every run is compared with the best of its conditions only; "
            "baseline=POLICY chooses another"
        )
    for rows in groups:
        runs = [load_run(Path(row["folder"]), str(row["series"])) for _, row in rows.iterrows()]
        if not machine:
            runs = [replace(run, errors={}, plausible=None) for run in runs]
        chosen = rows[rows["series"].isin(named)]["series"]
        if len(runs) < 2 or (baseline is not None and chosen.empty):
            continue
        against = None if baseline is None else str(chosen.iloc[0])
        if only_best:
            against = _best(rows, metric)
        for group in _together(runs, against, notes):
            pairs = compare(group, metric, against)
            paired |= {*pairs["series"], *pairs["against"]}
            notes += pairs["why"][pairs["why"] != ""].tolist()
            notes += _few_clusters(group[0])
            one = group[0].plausible
            pairs["requests_replayed"] = 0 if one is None else len(one.requests)
            notes += [FIRST_ORDER_NOTE] if (pairs["machine"] == FIRST_ORDER).any() else []
            own = rows.iloc[0]["comparison"] == OWN_RUNTIME
            pairs.insert(0, "runtime", "own" if own else rows.iloc[0]["runtime"])
            for name in ("comparison", *_CONDITIONS):
                pairs.insert(0, name, rows.iloc[0][name])
            for side in ("series", "against"):
                places = rows.set_index("series")["folder"]
                pairs[f"{side}_folder"] = [str(places[name]) for name in pairs[side]]
            tables.append(pairs)
    if tables:
        notes += [
            f"{series} is in no pair: no other run{'' if baseline is None else f' of {baseline}'} has its trace, "
            "machine, model, batch size and capacity and requests in common with it"
            for series in dict.fromkeys(ordered["series"])
            if series not in paired
        ]
    pairs = corrected_together(pd.concat(tables, ignore_index=True) if tables else compare([], metric))
    return Comparisons(pairs, tuple(dict.fromkeys(notes)))


def _best(rows: pd.DataFrame, metric: str) -> str:
    """The series with the best value of a metric, the first of several. Raises: UserError where none has one."""
    quantity = quantity_of(metric)
    values = rows[metric] if metric in rows else pd.Series(np.nan, rows.index)
    if values.isna().all():
        raise UserError(f"{metric} of {rows['series'].iloc[0]} is not known: it cannot be compared")
    known = values.to_numpy(np.float64)
    place = np.nanargmax(known) if quantity.metric.higher_is_better else np.nanargmin(known)
    return str(rows["series"].iloc[int(place)])


def _together(runs: Sequence[Run], baseline: str | None, notes: list[str]) -> Iterator[Sequence[Run]]:
    """Runs that can be compared: all at once where they replayed the same requests, else pair by pair."""
    if len({batches_of(run) for run in runs}) == 1:
        yield _alike([replace(run, replayed=runs[0].replayed) for run in runs])
        return
    for one, other in combinations(runs, 2):
        if baseline not in (None, one.series, other.series):
            continue
        common = on_common_requests([one, other])
        if common is None:
            notes.append(f"{one.series} and {other.series} are not compared: {no_common(one, other)}")
            continue
        count, most = len(common[0].requests), max(len(one.requests), len(other.requests))
        if count < most:
            notes.append(
                f"{one.series} and {other.series}: compared on the {count} requests that both replayed, of "
                f"{len(one.requests)} and {len(other.requests)}"
            )
        yield common


def no_common(one: Run, other: Run) -> str:
    """Why two runs have no common requests to be compared on."""
    return (
        f"they replayed {len(one.requests)} and {len(other.requests)} requests of the trace with fewer than "
        f"{FEWEST_COMMON} batches in common"
    )


def batches_of(run: Run) -> tuple[Batch, ...]:
    """The requests of each batch by their numbers in the whole trace, in the order of `Run.groups`."""
    order = np.argsort(run.requests["group"].to_numpy(np.int64), kind="stable")
    groups, numbers = run.requests["group"].to_numpy(np.int64)[order], run.numbers()[order].tolist()
    ends = np.searchsorted(groups, run.groups(), side="right").tolist()
    starts = np.searchsorted(groups, run.groups(), side="left").tolist()
    return tuple(tuple(numbers[start:end]) for start, end in zip(starts, ends, strict=True))


def on_common_requests(runs: Sequence[Run]) -> list[Run] | None:
    """The runs with only the batches that all of them replayed; None where those are fewer than two."""
    batches = [batches_of(run) for run in runs]
    common = sorted(set[Batch](batches[0]).intersection(*batches[1:]))
    if len(common) < FEWEST_COMMON:
        return None
    return _alike([_only(run, own, common, runs[0].replayed) for run, own in zip(runs, batches, strict=True)])


def _alike(runs: list[Run]) -> list[Run]:
    """Without the data sets of requests where not all runs know them, so that all are drawn alike."""
    if all("cluster" in run.requests for run in runs):
        return runs
    return [replace(run, requests=run.requests.drop(columns="cluster", errors="ignore")) for run in runs]


def _only(run: Run, own: Sequence[Batch], common: Sequence[Batch], replayed: tuple[str, int]) -> Run:
    """The run with these batches only, numbered in their order."""
    name = dict(zip(own, run.groups().tolist(), strict=True))
    number = {name[batch]: place for place, batch in enumerate(common)}
    blocks, requests = (frame[frame["group"].isin(list(number))] for frame in (run.blocks, run.requests))
    return replace(
        run,
        blocks=blocks.assign(group=blocks["group"].map(number)).reset_index(drop=True),
        requests=requests.assign(group=requests["group"].map(number)).reset_index(drop=True),
        replayed=replayed,
    )


def common_values(rows: pd.DataFrame, metric: str) -> pd.Series[float]:
    """The metric of the runs of one set of conditions on the requests that all replayed: of each on its own, where all
    replayed the same ones or too few are common."""
    if rows["trace_hash"].nunique() == 1:
        return rows[metric]
    common = on_common_requests([load_run(Path(row["folder"]), str(row["series"])) for _, row in rows.iterrows()])
    return rows[metric] if common is None else pd.Series([value_of(run, metric) for run in common], rows.index)


def _few_clusters(run: Run) -> list[str]:
    """That the requests come from so few data sets that these are not drawn again."""
    count = run.requests["cluster"].nunique() if "cluster" in run.requests else FEWEST_CLUSTERS
    if not 1 < count < FEWEST_CLUSTERS:
        return []
    return [
        f"the requests come from {count} data sets or conversations, too few to be drawn again: intervals speak of "
        "other requests of the same ones"
    ]
