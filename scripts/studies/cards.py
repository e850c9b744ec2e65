"""Measures cards on requests that they never saw: python -m scripts.studies.cards [--traces FOLDER] [--write]

A card is made of half of the requests of a trace; what is drawn from it is compared with the other half: LRU and Belady
miss rates of each layer's own cache at every capacity, distinct experts of neighbouring tokens, and the order of ten
policies by time per decode token. Beside it: the first half itself, a card of nothing but the first half's LRU curve as
somebody would publish it, and independent tokens of equal popularity. FOLDER holds gpt_oss_20b/ as `python -m sim
import gpt_oss` reads it. `--write` puts docs/results/cards.csv and cards.md anew. About five minutes.
"""

from __future__ import annotations

import csv
import io
import itertools
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from scripts.command_line import parser_of, run
from sim.assembly.catalogue import load_part, load_policy
from sim.assembly.replay import DeviceSetup, assemble
from sim.cards.card import Generator, Published
from sim.cards.fit import _access_distances, fit_generator, fit_published, independent
from sim.cards.measure import Measured, counted_requests, measure
from sim.cards.routing import draw_requests, routing_of
from sim.config import RunConfig
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.machine.model import load_geometry
from sim.metrics.step_table import StepTable
from sim.paths import ROOT
from traces.embedded import embedded_trace_path
from traces.format.files import read_trace
from traces.format.trace import DECODE, Trace, id_dtype
from traces.importers import load_importer

OUT = ROOT / "docs" / "results" / "cards"
REAL, CARD, CURVE, IID = "the first half itself", "its card", "its LRU curve alone", "independent tokens"
RULES = (
    "lru", "fifo", "lfu", "lfu_lifetime", "aged_lfu", "in_cache_visits", "least_stale", "random", "belady",
    "belady_admit",
)  # fmt: skip
"""Ten policies that differ in what they evict; all that ids alone decide."""
SHARES = (0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.36, 0.45, 0.55, 0.64, 0.75, 0.9, 1.0)
"""Capacities at which curves are published."""
CLEAR = 0.01
"""Policies further apart than this share of their time differ clearly."""
STRIDE = 3
"""Of gpt-oss-20b one of so many requests is taken, for time."""
SIZES = {"demo": "deepseek_moe_16b", "gpt_oss_20b": "gpt_oss_20b"}


@dataclass(frozen=True, slots=True)
class Curves:
    """Of one routing: miss rates at 0 to E slots, distinct experts, seconds per decode token by rule."""

    lru: NDArray[np.float64]
    belady: NDArray[np.float64]
    union: NDArray[np.float64]
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a routing is from the held-out half, worst over all capacities and windows."""

    trace: str
    routing: str
    lru_points: float
    belady_points: float
    union_percent: float
    tau: float
    clear_tau: float


def halves(trace: Trace, stride: int) -> tuple[Trace, Trace]:
    """Two halves of the requests, or of every so many, alike in labels: neighbours of a label go one to each half."""
    labels = np.array(trace.request_labels if trace.request_labels is not None else [""] * trace.num_requests)
    parts: list[list[int]] = [[], []]
    for label in dict.fromkeys(labels.tolist()):
        for number, request in enumerate(np.flatnonzero(labels == label)[::stride].tolist()):
            parts[number % 2].append(request)
    first, second = (trace.take_requests(np.sort(np.asarray(part, np.int64)), "half") for part in parts)
    return first, second


def curves(requests: list[NDArray[Any]], num_experts: int, top_k: int, model: str) -> Curves:
    """Curves of decode rows, a list of requests [n, L, K]."""
    found = measure(requests, num_experts)
    rows = np.concatenate(requests).astype(np.int32)
    belady = [1.0] * top_k + [
        1 - belady_hits(rows, num_experts, slots) / rows.size for slots in range(top_k, num_experts)
    ]
    return Curves(
        1 - found.hits.mean(axis=0),
        np.array([*belady, 0.0]),
        found.union.mean(axis=0),
        policy_seconds(requests, num_experts, model),
    )


def policy_seconds(requests: list[NDArray[Any]], num_experts: int, model: str) -> dict[str, float]:
    """SIMULATED seconds per decode token of ten policies, a quarter of the experts of each layer cached."""
    lengths = np.array([len(request) for request in requests])
    ids = np.concatenate(requests).astype(id_dtype(num_experts))
    sizes = load_geometry(model)
    layers, ranks = ids.shape[1:]
    assert sizes.expert_bytes is not None
    geometry = replace(
        sizes, num_layers=layers, num_experts=num_experts, top_k=ranks, expert_bytes=sizes.expert_bytes[:1] * layers,
        attention_bytes=None, shared_bytes=None,
    )  # fmt: skip
    trace = Trace(
        geometry=geometry,
        topk_ids=ids,
        request_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompt_len=np.ones(len(lengths), np.int32),
        phase=np.full(len(ids), DECODE, np.uint8),
    )
    plain, machine = load_policy("lru"), Machine(load_hardware("s1_rtx3080ti"))
    found = {}
    for rule in RULES:
        policy = replace(plain, name=rule, eviction=load_part("eviction", rule))
        setup = DeviceSetup(policy, machine, CacheConfig(fraction=0.25), RunConfig(engine="compiled"))
        found[rule] = float(StepTable(assemble(trace, setup, geometry)).run().metrics()["tpot_s.mean"] or 0)
    return found


def judge(name: str, routing: str, found: Curves, held_out: Curves, top_k: int) -> Verdict:
    """A routing against the held-out half."""
    windows = min(len(found.union), len(held_out.union))
    lru, belady = (
        np.abs(a - b)[top_k:].max() * 100 for a, b in ((found.lru, held_out.lru), (found.belady, held_out.belady))
    )
    union = np.abs(found.union[:windows] / held_out.union[:windows] - 1).max() * 100
    tau, clear = (kendall(found.seconds, held_out.seconds, apart) for apart in (0.0, CLEAR))
    return Verdict(name, routing, float(lru), float(belady), float(union), tau, clear)


def kendall(one: dict[str, float], other: dict[str, float], apart: float) -> float:
    """Pairs in the same order less pairs in the other, over all whose times in `other` differ by more than a share."""
    pairs = [(a, b) for a, b in itertools.combinations(one, 2) if abs(other[a] - other[b]) > apart * other[a]]
    signs = [np.sign(one[a] - one[b]) * np.sign(other[a] - other[b]) for a, b in pairs]
    return float(np.mean(signs)) if signs else float("nan")


def lru_curve(requests: list[NDArray[Any]], num_experts: int) -> Published:
    """What somebody would publish of a trace: single accesses through each layer's LRU cache."""
    distances = _access_distances(np.concatenate(requests).astype(np.int32), num_experts)
    hits = np.cumsum(np.bincount(distances.ravel(), minlength=num_experts + 1)) / distances.size
    slots = [max(1, round(share * num_experts)) for share in SHARES]
    return Published(list(SHARES), [round(float(hits[count - 1]), 4) for count in slots], False)


def verdicts(trace: Trace, name: str, stride: int = 1) -> Iterator[Verdict]:
    """Every routing of a trace against its second half."""
    first, second = halves(trace, stride)
    experts, top_k, model = trace.num_experts, trace.top_k, SIZES[name]
    seen, unseen = list(counted_requests(first)), list(counted_requests(second))
    measured: Measured = measure(seen, experts)
    held_out = curves(unseen, experts, top_k, model)
    yield judge(name, REAL, curves(seen, experts, top_k, model), held_out, top_k)
    made: dict[str, Generator] = {
        CARD: fit_generator(measured, top_k),
        CURVE: fit_published(lru_curve(seen, experts), experts, top_k),
        IID: independent(measured, top_k),
    }
    lengths = np.array([len(request) for request in unseen], np.int64)
    for routing, generator in made.items():
        ids = draw_requests(routing_of(generator, trace.num_layers, experts, 0), 0, lengths, top_k)
        drawn = np.split(ids.astype(np.int32), np.cumsum(lengths)[:-1])
        yield judge(name, routing, curves(drawn, experts, top_k, model), held_out, top_k)


@njit(cache=True)
def belady_hits(ids: NDArray[np.int32], num_experts: int, slots: int) -> int:
    """Hits of caches of `slots` >= K experts, one per layer, that evict what is used last of all; ids [T, L, K]."""
    rows, layers, ranks = ids.shape
    never, hits = rows + 1, 0
    following = np.empty((rows, ranks), np.int64)
    for layer in range(layers):
        upcoming = np.full(num_experts, never, np.int64)
        for row in range(rows - 1, -1, -1):
            for rank in range(ranks):
                following[row, rank] = upcoming[ids[row, layer, rank]]
            for rank in range(ranks):
                upcoming[ids[row, layer, rank]] = row
        held, due, count = np.zeros(num_experts, np.bool_), np.full(num_experts, never, np.int64), 0
        for row in range(rows):
            for rank in range(ranks):
                hits += held[ids[row, layer, rank]]
                due[ids[row, layer, rank]] = -1  # this token's experts stay
            for rank in range(ranks):
                expert = ids[row, layer, rank]
                if held[expert]:
                    continue
                if count == slots:
                    victim = -1
                    for other in range(num_experts):
                        if held[other] and (victim < 0 or due[other] > due[victim]):
                            victim = other
                    held[victim] = False
                else:
                    count += 1
                held[expert] = True
            for rank in range(ranks):
                due[ids[row, layer, rank]] = following[row, rank]
    return hits


def page(found: list[Verdict]) -> str:
    """The verdicts in Markdown."""
    lines = [
        "# What is drawn from a card, beside requests that the card never saw",
        "",
        "`python -m scripts.studies.cards --traces FOLDER --write` writes this page; [about cards](../cards.md).",
        "A card is made of half of the requests of a trace, the other half is the truth. Worst absolute difference",
        "over all capacities from top_k slots on (miss rates of each layer's own cache, decode, in points) and over",
        "windows of 1 to 64 tokens (distinct experts, in percent); Kendall's tau of ten policies by SIMULATED time per",
        "decode token at a quarter of the experts, over all pairs and over pairs that differ by more than 1 %.",
        "The first row of a trace is how far its halves are apart: no card can be expected to be nearer than that.",
        f"Of gpt-oss-20b one request in {STRIDE} is taken. Drawn routing is SYNTHETIC.",
        "",
        "| trace | routing | LRU, points | Belady, points | distinct experts, % | tau | tau, clear pairs |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {v.trace} | {v.routing} | {v.lru_points:.1f} | {v.belady_points:.1f} | {v.union_percent:.1f} | "
        f"{v.tau:.2f} | {v.clear_tau:.2f} |"
        for v in found
    ]
    return "\n".join([*lines, ""])


def table(found: list[Verdict]) -> str:
    """The verdicts as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(list(Verdict.__dataclass_fields__))
    for v in found:
        numbers = (v.lru_points, v.belady_points, v.union_percent, v.tau, v.clear_tau)
        writer.writerow([v.trace, v.routing, *(f"{number:.3f}" for number in numbers)])
    return text.getvalue()


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    found = list(verdicts(read_trace(embedded_trace_path("demo")), "demo"))
    if options.traces is not None:
        gpt = load_importer("gpt_oss").read(options.traces / "gpt_oss_20b", Namespace())
        found += verdicts(gpt, "gpt_oss_20b", STRIDE)
    print(page(found))
    if options.write:
        OUT.with_suffix(".md").write_text(page(found), encoding="utf-8")
        OUT.with_suffix(".csv").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    run(main)
