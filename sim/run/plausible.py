"""Runs of a folder replayed on plausible machines: in how many a policy is faster, and what would change the order.

Exact replays by the compiled engine, of a few requests of each run, the same ones and on the same machines for all
policies. What they gave is kept beside each run (`sim.results.plausible_file`), where statistics find it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from sim.assembly.build import build
from sim.assembly.replay import Replay
from sim.machine.machine import PARAMETERS, Machine
from sim.machine.runtime import RUNTIME_PARAMETERS
from sim.machine.uncertainty import drawn_machine, moved_machine
from sim.metrics.registry import QUANTITIES, Quantity, quantity_of
from sim.metrics.step_table import Forget, StepTable
from sim.paths import CONF
from sim.results.comparisons import Batch, batches_of
from sim.results.json_files import read_json
from sim.results.plausible_file import Values, read_moves, read_plausible, write_plausible
from sim.results.run_files import finished_runs, is_system, load_run
from sim.results.series import run_name
from sim.results.table import CHOSEN
from sim.statistics.plausible import moved
from traces.errors import UserError

MACHINES, REQUESTS, SEED = 24, 8, 0
"""Plausible machines; requests that are replayed on each, as far as whole batches allow; the draws."""
MOST_RUNS = 24
"""Runs of a folder from which on nothing is replayed unless the number of machines is asked for."""
FIGURES = (
    "host_s_per_layer", "decision_s_per_layer", "link_bytes_per_s", "cpu_memory_bytes_per_s", "cpu_core_bytes_per_s",
    "cpu_core_flops_per_s",
)  # fmt: skip
"""Along which the order of two policies is looked at: what software costs, and the rates of link and CPU."""
MOST_FLIPS = 6
"""Pairs of a comparison of which flips are looked for."""
FARTHEST, CLOSE = 3.0, 0.05
"""How far figures are moved, and how closely a flip is found, in standard errors of their logarithm."""


@dataclass
class Moved:
    """A finished run whose policy can be replayed again on other machines."""

    folder: Path
    requests: tuple[int, ...]
    """Their numbers in the whole trace."""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return read_json(self.folder / "provenance.json")

    @cached_property
    def moves(self) -> dict[str, Values]:
        return read_moves(self.folder, self.provenance, self.requests)

    @cached_property
    def replay(self) -> Replay:
        """The run put together again, with these requests only. Raises: UserError where that is not possible."""
        config = self.provenance.get("config") or {}
        check_plain(config)
        try:
            replay = build(OmegaConf.create(config))
        except (OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"its configuration cannot be read: {error}") from error
        if replay.trace.content_hash != self.provenance.get("trace_hash"):
            raise UserError("its trace is another one now")
        numbers = replay.trace.request_numbers
        numbers = np.arange(replay.trace.num_requests) if numbers is None else numbers
        part = replay.trace.take_requests(np.flatnonzero(np.isin(numbers, self.requests)), "plausible")
        return replace(replay, trace=part)

    @property
    def machine(self) -> Machine:
        return self.replay.setup.machine

    def on(self, machine: Machine) -> Values:
        """Metrics on a machine."""
        metrics = StepTable(self.replay.assemble_again(machine=machine), Forget()).run().metrics()
        return {name: _number(metrics[name]) for name in QUANTITIES}

    def at(self, figure: str, errors: float) -> Values:
        """Metrics where one figure is so many standard errors off."""
        name = f"{figure} {errors:.6g}"
        if name not in self.moves:
            self.moves[name] = self.on(moved_machine(self.machine, figure, errors))
        return self.moves[name]


@cache
def shipped_targets() -> frozenset[str]:
    """Every class that a file of conf/policy names: the package's own rules."""
    texts = (path.read_text(encoding="utf-8") for path in (CONF / "policy").rglob("*.yaml"))
    return frozenset(target for text in texts for target in re.findall(r"(?m)^\s*_target_:\s*([\w.]+)\s*$", text))


def check_plain(config: Any, name: str = "") -> None:
    """Raises: UserError where a configuration that others may have written names code that is not the package's own,
    which would be imported, or holds `${...}`, which would be evaluated.

    Names are compared whole: policies.d/evil.py and policies.evil.py are files of others.
    """
    if isinstance(config, str):
        if name == "_target_" and config.replace(":", ".") not in shipped_targets():
            raise UserError(f"its rule {config} is none of this package, and code of others is not imported here")
        if "${" in config:
            raise UserError(f"its configuration holds {config}, and nothing of others is evaluated here")
    elif isinstance(config, Mapping):
        for key, value in config.items():
            check_plain(value, str(key))
    elif isinstance(config, Sequence):
        for value in config:
            check_plain(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def replay_on_plausible_machines(folder: Path, machines: int | None = None) -> tuple[str, ...]:
    """Replay the runs of a folder on `machines` machines (``MACHINES``), unless that is done -> what to say of it.

    None asks for the usual number, and for none at all in folders of more than ``MOST_RUNS`` runs.
    """
    runs = [run for run in finished_runs(folder) if not is_system(run)]
    if machines is None and len(runs) > MOST_RUNS:
        return (
            f"{len(runs)} runs are more than the {MOST_RUNS} that are replayed on plausible machines without being "
            "asked: what the machine's uncertainty does is by first order where nothing was replayed (machines=N asks)",
        )
    count, unplayed = MACHINES if machines is None else machines, dict[str, list[str]]()
    if count == 0:
        return ()
    todo = [one for one in _movable(runs) if not _done(one, count)]
    with tqdm(total=len(todo) * (count + 1), unit=" replays", delay=2, disable=None, leave=False) as bar:
        for one in todo:
            try:
                stated = one.on(one.machine)
                bar.update()
                uncertain = one.replay.timed and any(one.machine.uncertainty.values())
                drawn = dict[str, list[float | None]]({name: [] for name in stated})
                for number in range(count if uncertain else 0):
                    for name, value in one.on(drawn_machine(one.machine, SEED, number)).items():
                        drawn[name].append(value)
                    bar.update()
                write_plausible(one.folder, one.provenance, one.requests, stated, drawn, {})
            except (UserError, OSError) as error:
                name = run_name(str(one.provenance.get("policy")), one.provenance.get("overrides") or ())
                unplayed.setdefault(str(error), []).append(name)
    return tuple(
        f"{'; '.join(dict.fromkeys(named))}: not replayed on plausible machines: {error}"
        for error, named in unplayed.items()
    )


def _done(one: Moved, count: int) -> bool:
    known = read_plausible(one.folder, one.provenance)
    return known is not None and known.requests == one.requests and known.machines in (0, count)


def _movable(runs: Sequence[Path]) -> list[Moved]:
    """The runs with the requests that they are replayed on: those of one trace and batch size with the same ones."""
    batches: dict[Path, tuple[Batch, ...]] = {}
    together: dict[tuple[str, int], list[Path]] = {}
    for run in runs:
        sample = load_run(run)
        batches[run] = batches_of(sample)
        together.setdefault((CHOSEN.sub("", sample.replayed[0]), sample.replayed[1]), []).append(run)
    found = []
    for (_, size), group in together.items():
        common = sorted(set(batches[group[0]]).intersection(*(batches[run] for run in group)))
        for run in group:
            of = common or list(batches[run])
            places = np.unique(np.linspace(0, len(of) - 1, max(1, REQUESTS // size)).round().astype(int))
            found.append(Moved(run, tuple(number for place in places for number in of[place])))
    return sorted(found, key=lambda one: one.folder)


@dataclass(frozen=True, slots=True)
class Flip:
    """Where the order of two policies changes: a figure, its value there for both, how many standard errors away."""

    figure: str
    errors: float
    values: tuple[float, float]
    stated: tuple[float, float]


def flips(folders: tuple[Path, Path], values: tuple[float, float], metric: str) -> list[Flip] | None:
    """Every figure of ``FIGURES`` that turns the order of two runs within ``FARTHEST`` standard errors, nearest first.

    `values`: the metric of both runs. The sign of their difference is looked at where a figure is at either end, and
    the flip found by bisection. None where the runs were not replayed. Raises: UserError where they cannot be.
    """
    pair, quantity = [], quantity_of(metric)
    stated = []
    for folder in folders:
        provenance = read_json(folder / "provenance.json")
        known = read_plausible(folder, provenance)
        if known is None or not known.machines or not known.knows(quantity):
            return None
        pair.append(Moved(folder, known.requests))
        stated.append(known.stated[quantity.name])
    found = []
    for figure in FIGURES:
        if any(one.machine.uncertainty.get(figure, 0.0) > 0 and one.machine.figure(figure) for one in pair):
            errors = _nearest_flip(pair, figure, values, stated, quantity)
            if errors is not None:
                there = [moved_machine(one.machine, figure, errors).figure(figure) for one in pair]
                found.append(Flip(figure, errors, (there[0], there[1]), _figures(pair, figure)))
    for one in pair:
        _keep(one)
    return sorted(found, key=lambda flip: abs(flip.errors))


def _figures(pair: Sequence[Moved], figure: str) -> tuple[float, float]:
    one, other = (one.machine.figure(figure) for one in pair)
    return one, other


def _nearest_flip(
    pair: Sequence[Moved], figure: str, values: Sequence[float], stated: Sequence[float], quantity: Quantity
) -> float | None:
    def gap(errors: float) -> float:
        """The difference of the two runs where the figure is so many standard errors off."""
        one, other = (
            float(moved(quantity, value, before, np.array([_value(run.at(figure, errors), quantity)]))[0])
            for run, value, before in zip(pair, values, stated, strict=True)
        )
        return one - other

    sign, found = math.copysign(1.0, values[0] - values[1]), []
    for end in (-FARTHEST, FARTHEST):
        if not sign * gap(end) < 0:
            continue
        near, far = 0.0, end
        while abs(far - near) > CLOSE:
            middle = (near + far) / 2
            near, far = (near, middle) if sign * gap(middle) < 0 else (middle, far)
        found.append((near + far) / 2)
    return min(found, key=abs, default=None)


def _value(metrics: Mapping[str, float | None], quantity: Quantity) -> float:
    value = metrics[quantity.name]
    return float("nan") if value is None else value


def _keep(one: Moved) -> None:
    """Keep the moves beside the draws; a folder that cannot be written loses nothing but time."""
    known = read_plausible(one.folder, one.provenance)
    if known is None:
        return
    drawn = {name: [None if np.isnan(v) else float(v) for v in values] for name, values in known.drawn.items()}
    stated = {name: None if np.isnan(value) else value for name, value in known.stated.items()}
    try:
        write_plausible(one.folder, one.provenance, one.requests, stated, drawn, one.moves)
    except (OSError, UserError):
        return


def flip_words(found: Sequence[Flip], names: tuple[str, str]) -> str:
    """The end of a sentence on a pair: the nearest flip, or that there is none."""
    if not found:
        return f"no single figure within {FARTHEST:g} standard errors flips the order"
    first = found[0]
    where = "runtime" if first.figure in RUNTIME_PARAMETERS else "hardware"
    away = f"{first.errors:+.1f} standard errors"
    if first.values[0] == first.values[1]:
        words = f"{shown(first.figure, first.values[0])} (stated: {shown(first.figure, first.stated[0])}, {away})"
    else:
        words = " and ".join(
            f"{shown(first.figure, value)} for {name} (stated: {shown(first.figure, stated)})"
            for name, value, stated in zip(names, first.values, first.stated, strict=True)
        )
        words += f" ({away})"
    more = ", ".join(f"{flip.figure} ({flip.errors:+.1f})" for flip in found[1:])
    return f"the order flips at {where}.{first.figure} = {words}" + (f"; also by {more}" if more else "")


def shown(figure: str, value: float) -> str:
    """A figure in a unit that people use."""
    if figure.endswith("bytes_per_s"):
        return f"{value / 1e9:.3g} GB/s"
    if figure.endswith("flops_per_s"):
        return f"{value / 1e9:.3g} GFLOP/s"
    return f"{value * 1e3:.3g} ms" if PARAMETERS[figure].each_layer else f"{value:.3g}"


PLACES = {"asked_capacity": "capacity", "hardware": "", "batch_size": "batch size"}
"""What tells comparisons of the same two policies apart: column -> its word."""


def _where(pair: Any, varied: Sequence[str]) -> str:
    """Of which comparison a sentence is, where there are several."""
    return f"{', '.join(f'{PLACES[name]} {pair[name]}'.strip() for name in varied)}: " if varied else ""


def sentences(pairs: pd.DataFrame) -> list[str]:
    """Of every replayed pair of `sim.results.comparisons`: on how many plausible machines the better one is so.

    And what would turn the order; of many pairs that is looked for in the first ``MOST_FLIPS``.
    """
    found = []
    played = pairs[pairs["machines"] > 0]
    varied = [name for name in PLACES if name in played and played[name].nunique() > 1]
    for place, (_, pair) in enumerate(played.iterrows()):
        metric = str(pair["metric"])
        names = (str(pair["series"]), str(pair["against"]))
        if pair["difference"] == 0.0:
            found.append(f"{_where(pair, varied)}{names[0]} and {names[1]} do not differ in {metric}.")
            continue
        share, word = float(pair["better_on"]), "faster" if quantity_of(metric).is_time else "better"
        ahead = _is_better(pair["difference"], quantity_of(metric))
        first, second = names if ahead else names[::-1]
        percent = f"{100 * (share if ahead else 1 - share):.3g} %"
        sentence = (
            f"{_where(pair, varied)}{first} is {word} than {second} in {percent} of {pair['machines']} plausible "
            f"machines ({pair['requests_replayed']} requests replayed on each)"
        )
        if place < MOST_FLIPS:
            folders = (Path(pair["series_folder"]), Path(pair["against_folder"]))
            turned = flips(folders, (float(pair["value"]), float(pair["against_value"])), metric)
            sentence += "" if turned is None else f"; {flip_words(turned, names)}"
        found.append(f"{sentence}.")
    if len(played) > MOST_FLIPS:
        found.append(f"What would turn the order is said of the first {MOST_FLIPS} pairs: baseline=POLICY gives fewer.")
    return found


def _is_better(difference: float, quantity: Quantity) -> bool:
    return difference >= 0 if quantity.metric.higher_is_better else difference <= 0
