"""Writes where a policy pays, over two figures of the machine: python -m scripts.studies.smoe.where_it_pays

Replays the policy and every policy of a set (by default the lossless ones that come near the best anywhere, see
scripts.studies.smoe.rivals) on the paper's three set-ups at batch 1 and 3, under one runtime, and writes
docs/results/where_it_pays.csv and docs/figures/where_it_pays.png and .pdf; `python -m sim plot docs/results` draws the
table again. One to three minutes on one core. SIMULATED, sizes ESTIMATED.

  python -m scripts.studies.smoe.where_it_pays --policy importance_plus --against with_smoe \
      --out docs/results/importance_plus
  python -m scripts.studies.smoe.where_it_pays --against lru,hybrimoe_paper --y link_bytes_per_s=6e9,12e9,26e9

An axis is cpu_ratio (an expert on the CPU in copies of it), host_s (host time per layer), or any number of a hardware
or runtime file. LRU with SMoE's rule for the CPU is called lru+cpu, `importance` without its prefetch
lru+eviction+router+cpu.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib import rc_context

from scripts.command_line import parser_of, run
from scripts.studies.smoe.replays import (
    CHAIN,
    HOSTS_S,
    NOMINAL,
    RUNTIME,
    SETUPS,
    STATED_HOST_S,
    THIRD,
    THREE_CORES,
    TWO_CORES,
    Bench,
    Contender,
    Machine,
    borrowed,
    split,
    value,
)
from scripts.studies.smoe.rivals import LRU_AND_CPU, lossless, rivals
from sim.assembly.catalogue import load_policy
from sim.figures.drawings.where_it_pays import changes, where_it_pays
from sim.figures.registry import save
from sim.figures.style import STYLE
from sim.machine.durations import copy_s, cpu_rates
from sim.machine.hardware import load_hardware
from sim.machine.machine import PARAMETERS
from sim.machine.machine import Machine as SimulatedMachine
from sim.paths import ROOT
from traces.errors import UserError

REQUESTS = 6
RATIOS = (0.25, THIRD, 0.5, THREE_CORES, TWO_CORES)
DEFAULT_AXES = ("cpu_ratio", RATIOS), ("host_s", HOSTS_S)
SETS = {
    "lossless": "the best lossless policy",
    "lossless_all": "the best lossless policy, none left out",
    "with_smoe": "the faster of SMoE and the best lossless policy",
}
Axis = tuple[str, tuple[float, ...]]


def main(argv: list[str]) -> None:
    """Replay the map, write its table and figure, print it."""
    parser = parser_of(__doc__)
    parser.add_argument("--policy", default="importance", help="the policy whose lead is shown (default: importance)")
    parser.add_argument("--against", default="lossless", help="lossless, lossless_all, with_smoe, or names with commas")
    parser.add_argument("--x", help="NAME=V1,V2,...: the axis to the right (default: cpu_ratio)")
    parser.add_argument("--y", help="NAME=V1,V2,...: the axis upwards (default: host_s)")
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"the first N requests (default: {REQUESTS})")
    parser.add_argument("--out", type=Path, help="folder for table and figure (default: docs/results, docs/figures)")
    options = parser.parse_args(argv)
    axes = [
        axis_of(words) if words else usual for words, usual in zip((options.x, options.y), DEFAULT_AXES, strict=True)
    ]
    if axes[0][0] == axes[1][0]:
        raise UserError(f"--y={axes[1][0]}: must be another figure than that of --x")
    ours, others = contender(options.policy), opponents(options.against)
    bench = Bench(*split(None, options.requests, 6))
    said = SETS.get(options.against, f"the best of {options.against}")
    table = map_of(bench, ours, others, axes, said)
    tables, figures = (options.out,) * 2 if options.out else (ROOT / "docs" / "results", ROOT / "docs" / "figures")
    tables.mkdir(parents=True, exist_ok=True)
    table.to_csv(tables / "where_it_pays.csv", index=False, float_format="%.6g")
    with rc_context(STYLE):
        save(where_it_pays(table), figures / "where_it_pays")
    for batch, cells in table[table["mark"].isna()].groupby("batch_size"):
        print(f"\n{ours.label} against {said}, batch {batch:.0f}: {axes[1][0]} down, {axes[0][0]} across; SIMULATED")
        print((100 * changes(cells)).round(1).to_string())
    print(f"\n{bench.replays} replays of {options.requests} requests; table in {tables}, figure in {figures}")


def axis_of(words: str) -> Axis:
    """NAME=V1,V2,... Raises: UserError for what is no figure of a machine, and for fewer than two different numbers."""
    name, _, text = words.partition("=")
    if name not in ("cpu_ratio", "host_s", *PARAMETERS):
        raise UserError(f"an axis is NAME=V1,V2,...; {name!r} is none of cpu_ratio, host_s, {', '.join(PARAMETERS)}")
    try:
        values = tuple(sorted({float(word) for word in text.split(",")}))
    except ValueError:
        raise UserError(f"axis {words}: must be {name}=V1,V2,... with numbers") from None
    if len(values) < 2:
        raise UserError(f"axis {words}: must have at least two different numbers")
    return name, values


def contender(name: str) -> Contender:
    """A policy of the library, or parts of SMoE on LRU: lru+cpu. Raises: UserError where there is none of that name."""
    head, *parts = name.split("+")
    if head == "lru" and parts and {*parts} <= {*CHAIN}:
        return Contender(tuple(parts))
    load_policy(name)
    return Contender(system=name)


def opponents(words: str) -> list[Contender]:
    """The set of a name, or of the policies named. Raises: UserError as ``contender``."""
    if words == "lossless":
        return rivals()
    if words == "with_smoe":
        return [*rivals(), contender("importance"), contender("lru+eviction+router+cpu")]
    return (
        [LRU_AND_CPU, *map(contender, lossless())] if words == "lossless_all" else [*map(contender, words.split(","))]
    )


def at(places: Sequence[tuple[str, float]]) -> Machine:
    """The nominal machine with these figures."""
    machine = NOMINAL
    for name, number in places:
        if name == "host_s":
            machine = replace(machine, host_s=number)
        elif name == "cpu_ratio":
            machine = replace(machine, cpu_ratio=number)
        else:
            machine = replace(machine, figures=(*machine.figures, (name, number)))
    return machine


def map_of(
    bench: Bench, ours: Contender, others: Sequence[Contender], axes: Sequence[Axis], against: str,
    batches: Sequence[int] = (1, 3),
) -> pd.DataFrame:  # fmt: skip
    """A row per set-up, batch and machine: TPOT of ours and of the fastest of the others there; then the marks."""
    (x_axis, xs), (y_axis, ys) = axes
    rows = []
    for batch, x, y, setup in itertools.product(batches, xs, ys, SETUPS):
        machine = at(((x_axis, x), (y_axis, y)))
        tpot = {one: value(bench.run(setup, one, batch, machine), "TPOT") / 1e9 for one in (ours, *others)}
        best = min(others, key=tpot.__getitem__)
        place = {"batch_size": batch, "setup": setup.name, "x": x, "y": y}
        sides = {"policy": ours.label, "tpot_s": tpot[ours], "rival": best.label, "rival_tpot_s": tpot[best]}
        rows.append(place | sides)
    table = pd.DataFrame(rows).assign(x_axis=x_axis, y_axis=y_axis, against=against, mark=None)
    if (x_axis, y_axis) != ("cpu_ratio", "host_s"):
        return table
    return pd.concat([table.astype({"mark": object}), pd.DataFrame(marks(bench))], ignore_index=True)


def marks(bench: Bench) -> list[dict[str, float | str]]:
    """Where the paper's machines lie, as their files and the runtime state them, and what its authors' logs say."""
    rows: list[dict[str, float | str]] = []
    for setup in SETUPS:
        machine = SimulatedMachine(load_hardware(setup.hardware), RUNTIME)
        size = (borrowed(setup.model, bench.trace).expert_bytes or (1,))[0]
        ratio = size / cpu_rates(machine)[0] / float(copy_s([size], machine)[0])
        rows.append({"mark": setup.name, "x": ratio, "y": STATED_HOST_S})
    return [*rows, {"mark": "authors' log", "x": TWO_CORES, "y": LOGGED_HOST_S}]


LOGGED_HOST_S = 0.75e-3
"""The most that the authors' logs leave for the host, with two cores that compute."""

if __name__ == "__main__":
    run(main)
