"""Prints published hit rates beside replays: python -m scripts.studies.published_hit_rates FOLDER

FOLDER holds big_moe_on_edge/ (qwen.route.csv, qwen-curve.csv of https://github.com/Helldez/BigMoeOnEdge) and
mixtral_offloading/ (active_experts.txt of https://github.com/h39s/mlsys, measured.csv gathered from its logs).
All values are hit rates in percent over all steps, prompt included. Takes about two minutes.
"""

from __future__ import annotations

import csv
import random
from argparse import Namespace
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from policies.base import Eviction
from policies.eviction.belady_admit import BeladyAdmit
from policies.eviction.lfu_lifetime import LfuLifetime
from policies.eviction.lru import Lru
from policies.eviction.random import Random
from scripts.command_line import parser_of, run
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.metrics.step_table import StepTable
from traces.format.trace import Trace
from traces.importers import load_importer

MIB = 2**20
ON_DEMAND = load_policy("lru")
SEEDS = range(12)
"""Seeds over which random eviction is averaged."""
PHONE_RULES: dict[str, tuple[Eviction, str]] = {
    "belady": (BeladyAdmit(), "global"),
    "lru": (Lru(), "global"),
    "lfu": (LfuLifetime(), "global"),
    "layer": (Lru(), "layer"),
    "layerlfu": (LfuLifetime(), "layer"),
    "random": (Random(), "global"),
}
"""Name in the published curve -> our rule and the scope of the byte pool."""
MIXTRAL_RULES: dict[str, Eviction] = {"lru": Lru(), "lfu": LfuLifetime(), "random": Random()}
NUM_LAYERS, NUM_EXPERTS = 32, 8


@dataclass(frozen=True, slots=True)
class Row:
    """One published hit rate beside ours, in percent."""

    setting: str
    rule: str
    published: float
    ours: float
    spread: float = 0.0
    """Standard deviation of ours over seeds."""
    class_rules: float | None = None
    """What the rules of the measured program itself give on the published trace."""
    decode: tuple[float, float] | None = None
    """(published, ours) over decode steps only."""
    read_mib: tuple[float, float] | None = None
    """(published, ours) MiB read in all."""


def replayed(trace: Trace, rule: Eviction, capacity: CacheConfig, seed: int = 0) -> dict[str, float]:
    """Metrics of one replay that fetches on demand only; its hits do not depend on the machine."""
    policy = replace(ON_DEMAND, name="published", eviction=rule)
    setup = DeviceSetup(policy, Machine(load_hardware("rtx4090")), capacity, RunConfig(seed=seed))
    metrics = StepTable(assemble(trace, setup)).run().metrics()
    return {name: float(metrics[name] or 0.0) for name in ("hit_rate", "decode.hit_rate", "bytes_per_token")}


def phone_rows(folder: Path, rules: Collection[str] = tuple(PHONE_RULES)) -> Iterator[Row]:
    """Qwen3-30B-A3B on a phone: one pool of bytes (or equal slices per layer), atomic steps held until the next one."""
    trace = load_importer("big_moe_on_edge").read(folder / "qwen.route.csv", Namespace(model="qwen3_30b_a3b"))
    with (folder / "qwen-curve.csv").open() as file:
        for line in csv.DictReader(file):
            if line["policy"] not in rules:
                continue
            rule, scope = PHONE_RULES[line["policy"]]
            pool = CacheConfig(bytes=int(line["budget_mib"]) * MIB, scope=scope, overflow="hold")
            seeds = SEEDS if isinstance(rule, Random) else range(1)
            runs = [replayed(trace, rule, pool, seed) for seed in seeds]
            hits, decode, read = (
                np.array([metrics[name] for metrics in runs])
                for name in ("hit_rate", "decode.hit_rate", "bytes_per_token")
            )
            yield Row(
                f"{line['budget_mib']} MiB",
                line["policy"],
                float(line["hit_pct_cum"]),
                100 * float(hits.mean()),
                100 * float(hits.std()),
                decode=(float(line["hit_pct_decode"]), 100 * float(decode.mean())),
                read_mib=(float(line["read_mib"]), float(read.mean()) * trace.num_tokens / MIB),
            )


def class_hit_rate(calls: list[list[int]], rule: str, offloaded: int, seed: int = 0) -> float:
    """Hit rate of the measured program's own rules on MoE layer calls (sets of experts, layers in turn).

    A layer starts with its last experts cached. Cached experts of a call are used first; then every missing one pushes
    out one cached expert, which may be one that this very call uses: nothing is shielded. LFU counts all uses since
    the start, hits or not, and breaks ties by recency.
    Source: src/expert_cache.py at 1deaa42, src/build_model.py, https://github.com/h39s/mlsys.
    """
    generator = random.Random(seed)
    caches = [list(range(offloaded, NUM_EXPERTS)) for _ in range(NUM_LAYERS)]  # by recency, the oldest first
    uses = [[0] * NUM_EXPERTS for _ in range(NUM_LAYERS)]
    hits = 0
    for index, experts in enumerate(calls):
        cached, count = caches[index % NUM_LAYERS], uses[index % NUM_LAYERS]
        for expert in experts:
            count[expert] += 1
        missing = [expert for expert in experts if expert not in cached]
        for expert in [expert for expert in experts if expert in cached]:
            hits += 1
            cached.remove(expert)
            cached.append(expert)
        for expert in missing:
            victim = cached[0] if rule == "lru" else min(cached, key=count.__getitem__)
            cached.remove(generator.choice(cached) if rule == "random" else victim)
            cached.append(expert)
    return hits / sum(map(len, calls))


def mixtral_rows(folder: Path) -> Iterator[Row]:
    """Mixtral-8x7B on two GPUs, 8 - N experts of each layer cached, warm; measured on other prompts than the trace."""
    source = folder / "active_experts.txt"
    trace = load_importer("mixtral_offloading").read(source, Namespace())
    trace = replace(trace, geometry=replace(trace.geometry, expert_bytes=(MIB,) * trace.num_layers))
    calls = [[int(expert) for expert in line.split(",")] for line in source.read_text().split()]

    @cache
    def replays(offloaded: int, rule: str) -> tuple[float, float, float]:
        seeds = SEEDS[:4] if rule == "random" else range(1)
        capacity = CacheConfig(slots_per_layer=NUM_EXPERTS - offloaded, start="warm")
        ours = [100 * replayed(trace, MIXTRAL_RULES[rule], capacity, seed)["hit_rate"] for seed in seeds]
        theirs = [100 * class_hit_rate(calls, rule, offloaded, seed) for seed in seeds]
        return float(np.mean(ours)), float(np.std(ours)), float(np.mean(theirs))

    with (folder / "measured.csv").open() as file:
        for line in csv.DictReader(file):
            offloaded, rule = int(line["offload_per_layer"]), line["strategy"]
            published = 100 * float(line["mean_hit_rate"])
            yield Row(f"{offloaded} offloaded, {line['gpu']}", rule, published, *replays(offloaded, rule))


def show(title: str, rows: Iterator[Row]) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(
        f"{'setting':<20}{'rule':<10}{'published':>10}{'ours':>9}{'difference':>12}{'spread':>8}{'its own rules':>15}"
    )
    for row in rows:
        own = "" if row.class_rules is None else f"{row.class_rules:.2f}"
        difference = row.ours - row.published
        print(
            f"{row.setting:<20}{row.rule:<10}{row.published:>10.3f}{row.ours:>9.3f}{difference:>+12.3f}"
            f"{row.spread:>8.2f}{own:>15}"
        )


def main(argv: list[str]) -> None:
    """Print both tables."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, help="folder with big_moe_on_edge/ and mixtral_offloading/")
    folder = parser.parse_args(argv).folder
    show("Qwen3-30B-A3B on a phone: replayed by its authors, replayed here", phone_rows(folder / "big_moe_on_edge"))
    show(
        "Mixtral-8x7B on RTX 4090 and 3090: MEASURED on about ten prompts, replayed here on one other",
        mixtral_rows(folder / "mixtral_offloading"),
    )


if __name__ == "__main__":
    run(main)
