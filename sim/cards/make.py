"""Cards from traces, and from tables of published curves."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cards.card import (
    MOST_BINS,
    QUANTILES,
    SCHEMA,
    Card,
    CardGeometry,
    Coupling,
    Drift,
    Gate,
    Lengths,
    Popularity,
    Prefill,
    Published,
    Recurrence,
    Reuse,
    Sample,
    Union,
)
from sim.cards.fit import fit_generator, fit_published, published_curve, slots_of
from sim.cards.measure import WINDOW, Measured, counted_requests, measure, prompt_statistics
from sim.cards.numbers import bins, rounded
from traces.errors import UserError
from traces.format.trace import DECODE, Trace
from traces.text import short_name
from traces.whole_input import read_bounded

MOST_SLOTS = 64
"""Capacities whose hit rate a card states."""
COLUMNS = (
    "model", "num_layers", "num_experts", "top_k", "expert_bytes", "resident_fraction", "decode_hit_rate", "kind",
    "source",
)  # fmt: skip
MOST_TABLE_BYTES = 1 << 22


def card_of_trace(trace: Trace) -> Card:
    """What a trace's routing is like, MEASURED, with a FITTED generator.

    Raises: UserError for a trace whose tokens may use fewer than K experts, or that is SYNTHETIC itself.
    """
    if trace.synthetic:
        raise UserError(f"the routing of {trace.geometry.model} is SYNTHETIC: a card describes a recorded trace")
    measured = measure(counted_requests(trace), trace.num_experts)
    prompt_rows, prompt_overlap, prompt_distance = prompt_statistics(trace, measured.use)
    gate = _gate(trace)
    made = fit_generator(measured, trace.top_k, None if gate is None else gate.slope)
    sizes = trace.geometry.expert_bytes
    decodes = bool((trace.phase == DECODE).any())
    return Card(
        schema=SCHEMA,
        model=trace.geometry.model,
        label="MEASURED",
        source=_origin(trace),
        geometry=CardGeometry(
            trace.num_layers, trace.num_experts, trace.top_k, sizes[0] if sizes and len(set(sizes)) == 1 else None
        ),
        generator=made,
        sample=Sample(
            trace.content_hash, trace.num_requests, measured.rows, "decode" if decodes else "prefill", prompt_rows
        ),
        lengths=Lengths(_quantiles(trace.prompt_len), _quantiles(measured.lengths if decodes else np.zeros(1))),
        popularity=_popularity(measured),
        reuse=_reuse(measured),
        union=Union(
            measured.union_tokens.tolist(),
            rounded(measured.union.mean(axis=0), 3),
            rounded(measured.union.min(axis=0), 3),
            rounded(measured.union.max(axis=0), 3),
        ),
        recurrence=_recurrence(measured.likeness),
        coupling=Coupling(round(min(1.0, measured.next_top1), 4), round(min(1.0, measured.alone_top1), 4)),
        drift=Drift(_short(measured.between_halves), _short(measured.between_requests), _short(prompt_distance)),
        prefill=None if not prompt_rows else Prefill(_short(prompt_overlap)),
        gate=gate,
    )


def card_of_curve(
    model: str, geometry: CardGeometry, capacity: Sequence[float], hit_rate: Sequence[float], warm: bool, source: str
) -> Card:
    """A card of nothing but a PUBLISHED curve: hit rates of each layer's LRU cache, one access at a time."""
    published = Published(list(capacity), list(hit_rate), warm)
    if geometry.num_experts == geometry.top_k:
        raise UserError(
            f"top_k={geometry.top_k} of {geometry.num_experts} experts: every token uses all, nothing to fit"
        )
    made = fit_published(published, geometry.num_experts, geometry.top_k)
    drawn = published_curve(made, geometry.num_experts, geometry.top_k, published.hit_rate[-1], warm)
    published = replace(published, drawn_hit_rate=rounded(drawn[slots_of(published, geometry.num_experts)]))
    return Card(
        schema=SCHEMA,
        model=model,
        label="PUBLISHED",
        source=source,
        geometry=geometry,
        generator=made,
        published=published,
    )


def read_curve(path: Path, model: str) -> Card:
    """The card of one model in a CSV table of published curves, a row per capacity.

    Columns: model, num_layers, num_experts, top_k, expert_bytes (may be empty), resident_fraction, decode_hit_rate,
    kind, source. A curve that reaches a hit rate of 1 is one of a warm cache.

    Raises: UserError naming the row, the column and what is allowed.
    """
    text = read_bounded(path, MOST_TABLE_BYTES, "table").decode("utf-8", "replace")
    lines = csv.DictReader(text.splitlines())
    try:
        rows = list(lines)
    except csv.Error as error:
        raise UserError(f"table {path.name} is no CSV: {error}") from error
    if absent := [name for name in COLUMNS if name not in (lines.fieldnames or ())]:
        raise UserError(f"table {path.name} has no column {absent[0]}: must have {', '.join(COLUMNS)}")
    known = sorted({str(row["model"]) for row in rows})
    chosen = [(number, row) for number, row in enumerate(rows, 2) if row["model"] == model]
    if not chosen:
        raise UserError(f"--model={model}: must be one of {', '.join(known) or 'none'}, the models of {path.name}")
    where = f"{path.name}, line {chosen[0][0]}"
    first = chosen[0][1]
    for number, row in chosen:
        for name in ("num_layers", "num_experts", "top_k", "expert_bytes"):
            if row[name] != first[name]:
                raise UserError(
                    f"{path.name}, line {number}: {name}={row[name]} of {model}: must be {first[name]} as before"
                )
    layers, experts, ranks = (
        _whole(first[name], f"{where}: {name}") for name in ("num_layers", "num_experts", "top_k")
    )
    bytes_of = _whole(first["expert_bytes"], f"{where}: expert_bytes") if first["expert_bytes"] else None
    points = [
        (_share(row["resident_fraction"], f"{path.name}, line {number}: resident_fraction"),
         _share(row["decode_hit_rate"], f"{path.name}, line {number}: decode_hit_rate"))
        for number, row in chosen
    ]  # fmt: skip
    capacity, hit_rate = (list(values) for values in zip(*sorted(points), strict=True))
    source = f"{first['source']}: {first['kind']}"
    return card_of_curve(
        model, CardGeometry(layers, experts, ranks, bytes_of), capacity, hit_rate, hit_rate[-1] >= 1, source
    )


def _origin(trace: Trace) -> str:
    said = trace.provenance.get("source") or trace.provenance.get("imported_from") or trace.provenance.get("format")
    text = f"trace {trace.content_hash[:16]} of {short_name(trace.geometry.model)}"
    return f"{text}, {said}" if isinstance(said, str) else text


def _popularity(measured: Measured) -> Popularity:
    from scipy.special import entr

    use = -np.sort(-measured.use, axis=1)
    shares = use / use.sum(axis=1, keepdims=True)
    experts = use.shape[1]
    counts = sorted({1, *(max(1, math.ceil(experts * part)) for part in (0.125, 0.25, 0.5))})
    top = {str(count): round(float(shares[:, :count].sum(axis=1).mean()), 4) for count in counts}
    entropy = np.clip(entr(shares).sum(axis=1) / np.log(max(2, experts)), 0, 1)
    return Popularity(rounded(bins(use, MOST_BINS), 5), top, rounded(entropy))


def _reuse(measured: Measured) -> Reuse:
    experts = measured.use.shape[1]
    slots = np.unique(np.linspace(1, experts, min(experts, MOST_SLOTS)).round().astype(int))
    hits = np.clip(measured.hits[:, slots], 0, 1)
    return Reuse(
        measured.lags.tolist() or [1],
        rounded(measured.overlap) if len(measured.lags) else [[0.0]] * len(measured.use),
        slots.tolist(),
        rounded(hits.mean(axis=0)),
        rounded(hits.min(axis=0)),
        rounded(hits.max(axis=0)),
    )


def _recurrence(likeness: NDArray[np.float64]) -> Recurrence | None:
    if not len(likeness):
        return None
    return Recurrence(WINDOW, round(float(likeness.mean()), 4), rounded(np.quantile(likeness, QUANTILES)))


def _gate(trace: Trace) -> Gate | None:
    if trace.router_logits is None or trace.num_experts <= trace.top_k:
        return None
    from traces.statistics.gate import gate_statistics

    found = gate_statistics(trace)
    return Gate(round(found.gate_slope, 5), list(found.alphas), rounded(found.low_share), rounded(found.candidates, 3))


def _quantiles(values: NDArray[Any]) -> list[int]:
    return [int(value) for value in np.quantile(np.asarray(values, np.int64), QUANTILES)]


def _short(value: float | None) -> float | None:
    return None if value is None else round(min(1.0, value), 4)


def _whole(text: str | None, name: str) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise UserError(f"{name}={text}: must be a whole number") from None


def _share(text: str | None, name: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UserError(f"{name}={text}: must be a share from 0 to 1")
    return value
