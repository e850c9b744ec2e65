"""Every metric, defined once: what it is a ratio of, its unit, its names in tables, its definition.

What computes, compares, prints, plots or explains metrics derives from these tables; docs/metrics.md repeats the
definitions, and a test holds it equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from sim.config import suggest
from sim.formatting import milliseconds, number, percent, size
from sim.machine.parts import PARTS
from traces.errors import UserError

PREFIXES = {"": (0, 1), "prefill.": (0,), "decode.": (1,)}
"""Prefix of a metric's name in metrics.json -> the phases whose steps it counts."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
GATE_MASSES = ("lost_gate_mass", "degraded_gate_mass")
"""Shares of the router's weight, columns of the per-step table where they are known."""
PREFETCH_ENDS = ("prefetch_used", "prefetch_late", "prefetch_wasted", "prefetch_abandoned")
"""One of them for every prefetch that started, maybe in another phase than that in which it started."""
STORAGE = "storage"
STALLS = ("link", "cpu", "launch", "sync", "host", "storage")
"""Parts of a token's time that are waiting or overhead."""


@dataclass(frozen=True, slots=True)
class Unit:
    """How a number is shown: alone by `format`; in a column of a table times `scale`, in `word`, with the digits of
    `form`."""

    format: Callable[[object], str]
    scale: float
    form: str
    word: str = ""


FRACTION, SECONDS = Unit(percent, 100.0, ".1f", "%"), Unit(milliseconds, 1e3, ".2f", "ms")
BYTES = Unit(size, 1e-6, ".1f", "MB")
PLAIN = Unit(number, 1.0, ".4g")


@dataclass(frozen=True, slots=True)
class Metric:
    """The sum of the columns `above` over the sum of the columns `below`, divided by `divisor`.

    `above` and `below` are empty for times of requests and for totals of a run, which are no such ratio. `title` names
    the metric in what `run` prints, `heading` in tables of runs, with the unit; `form`: its digits there if not the
    unit's.
    """

    name: str
    title: str
    definition: str
    unit: Unit = FRACTION
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    divisor: float = 1.0
    higher_is_better: bool = False
    heading: str = ""
    form: str = ""

    def value(self, sums: Mapping[str, float]) -> float | None:
        """The ratio of these sums; None where one is not known or there is nothing to divide by."""
        if not all(name in sums for name in (*self.above, *self.below)):
            return None
        whole = sum(sums[name] for name in self.below)
        return float(sum(sums[name] for name in self.above) / self.divisor / whole) if whole else None


RATES = (
    Metric(
        "hit_rate", "hit rate", "hits / demanded (layer step, expert) pairs, before substitution; late is not a hit",
        FRACTION, ("hits",), ("demanded",), higher_is_better=True, heading="hit rate %",
    ),
    Metric(
        "late_rate", "late (still on the link)", "demanded experts that were already on the link / demanded",
        FRACTION, ("late",), ("demanded",),
    ),
    Metric(
        "cache_ratio", "cache ratio (after substitution)",
        "resident executions / distinct experts executed per layer step, after substitution (SMoE's cache ratio)",
        FRACTION, ("resident_executed",), ("executed",), higher_is_better=True, heading="cache ratio %",
    ),
    Metric(
        "substitution_rate", "substituted (token, rank) pairs",
        "(token, rank) pairs whose expert was replaced / all (token, rank) pairs",
        FRACTION, ("substituted_ranks",), ("routed_ranks",), heading="substituted %",
    ),
    Metric(
        "drop_rate", "dropped (token, rank) pairs", "(token, rank) pairs that were not executed at all / all",
        FRACTION, ("dropped_ranks",), ("routed_ranks",),
    ),
    Metric(
        "cpu_rate", "computed on the CPU", "demanded experts computed on the CPU / demanded",
        FRACTION, ("cpu",), ("demanded",),
    ),
    Metric(
        "bytes_per_token", "copied per token", "bytes copied to the GPU / tokens",
        BYTES, ("copied_bytes",), ("num_tokens",), heading="copied MB/token",
    ),
    Metric(
        "loads_per_token", "loads per token", "demand copies and prefetches / tokens",
        PLAIN, ("demand_copies", "prefetch_copies"), ("num_tokens",),
    ),
    Metric(
        "prefetches_per_token", "prefetches per token", "prefetches that started / tokens",
        PLAIN, ("prefetch_copies",), ("num_tokens",),
    ),
    Metric(
        "prefetch_precision", "prefetched experts then demanded",
        "prefetches whose expert was then demanded, in time or late / prefetches that ended (so, wasted or given up)",
        FRACTION, ("prefetch_used", "prefetch_late"), PREFETCH_ENDS, higher_is_better=True,
    ),
    Metric(
        "demand_to_capacity", "demand / capacity", "mean demand of a layer step / slots of the layer",
        PLAIN, ("demanded",), ("slot_steps",),
    ),
    Metric(
        "overflow_rate", "layer steps over capacity",
        "layer steps that demand more than the capacity holds / layer steps",
        FRACTION, ("overflow_steps",), ("layer_steps",),
    ),
    Metric(
        "lost_gate_mass", "gate mass not executed as routed",
        "share of the router's weight that was not executed as routed: replaced, dropped or executed in low precision, "
        "mean over tokens and layers: a proxy for the cost in quality, not a measure of it",
        FRACTION, ("lost_gate_mass_tokens",), ("num_tokens",), heading="lost gate mass %",
    ),
    Metric(
        "degraded_gate_mass", "gate mass executed in low precision",
        "the part of `lost_gate_mass` whose experts were executed as routed but in low precision, counted in full: an "
        "upper limit of what the precision costs",
        FRACTION, ("degraded_gate_mass_tokens",), ("num_tokens",), heading="degraded gate mass %",
    ),
)  # fmt: skip
"""Of all steps, and with the prefixes of those of one phase."""

TIER_RATES = (
    Metric(
        "host_hit_rate", "served from host memory", "experts that lay in host memory / experts that it was asked for, "
        "by a copy to the GPU or by the CPU",
        FRACTION, ("host_hits",), ("host_hits", "host_misses"), higher_is_better=True, heading="host hit rate %",
    ),
    Metric(
        "storage_bytes_per_token", "read from storage per token", "bytes read from storage / tokens",
        BYTES, ("storage_bytes",), ("num_tokens",), heading="read MB/token",
    ),
)  # fmt: skip
"""The same of runs with storage behind host memory or behind unified memory."""
PEER_RATES = (
    Metric(
        "peer_hit_rate", "served from the second GPU", "experts that lay in the second GPU's memory / experts that it "
        "was asked for",
        FRACTION, ("host_hits",), ("host_hits", "host_misses"), higher_is_better=True, heading="peer hit rate %",
    ),
    Metric(
        "host_bytes_per_token", "copied from host memory per token", "bytes copied from host memory to the second GPU "
        "/ tokens",
        BYTES, ("storage_bytes",), ("num_tokens",), heading="host MB/token",
    ),
)  # fmt: skip
"""... of runs with a second GPU as a store, with host memory behind it."""

REQUEST_TIMES = (
    Metric(
        "tpot_s", "TPOT over requests",
        "time per output token of a request: (latency - TTFT) / its decode tokens, of drafts the accepted ones; in a "
        "batch it includes waiting while other prompts are prefilled", SECONDS, heading="TPOT ms",
    ),
    Metric(
        "ttft_s", "TTFT",
        "time to first token: from the start of its batch until its prompt is prefilled; null for traces without "
        "prefill", SECONDS, heading="TTFT ms", form=".1f",
    ),
    Metric(
        "latency_s", "latency of a request", "from the start of its batch until the last token of a request", SECONDS,
    ),
)  # fmt: skip
"""Means and quantiles over requests."""

TURN_TIMES = (
    Metric(
        "later_ttft_s", "TTFT of later turns",
        "TTFT of the turns of chats after their first; only where the turns of chats are told apart (`session.*`), "
        "each a request of its own", SECONDS, heading="later TTFT ms", form=".1f",
    ),
)  # fmt: skip
"""Means and quantiles over requests that are turns of chats."""

TOKEN_TIME = Metric(
    "itl_s", "time per decode token",
    "latency of single decode steps, over decode tokens; a batch step's time is each of its members', and is shared by "
    "the tokens that are accepted in it",
    SECONDS, ("token_latency_ns",), ("num_tokens",), 1e9, heading="decode step ms",
)  # fmt: skip
"""Mean and quantiles over decode tokens."""

PART_TIMES = tuple(
    Metric(
        f"{kind}_s_per_token.{part}", f"{word} {part}", definition, SECONDS, (f"token_{part}_ns",), ("num_tokens",), 1e9
    )
    for part in PARTS
    if part != STORAGE
    for kind, word, definition in (
        ("time", "time of", "where a decode token's time goes; the parts sum to the whole"),
        ("stall", "stall of", "the same for the parts that are waiting or overhead"),
    )
    if kind == "time" or part in STALLS
)
"""Over decode tokens."""
STORAGE_TIMES = tuple(
    Metric(
        f"{kind}_s_per_token.{STORAGE}", "waiting for storage", "where a decode token's time goes: waiting for what "
        "storage reads, beyond what the copy or the CPU takes by itself", SECONDS, (f"token_{STORAGE}_ns",),
        ("num_tokens",), 1e9,
    )
    for kind in ("time", "stall")
)  # fmt: skip
"""... of runs with storage."""
STORAGE_UTILISATION = Metric(
    "storage_utilisation", "storage busy", "time of the reads that storage was asked for / simulated time, prefill "
    "included",
)  # fmt: skip
HOST_LINK_UTILISATION = Metric(
    "host_link_utilisation", "second GPU's link busy", "time of the copies that host memory was asked for / simulated "
    "time, prefill included",
)  # fmt: skip
TIERS = (*TIER_RATES, *STORAGE_TIMES, STORAGE_UTILISATION)
"""Metrics that only runs with storage know."""
PEERS = (*PEER_RATES, HOST_LINK_UTILISATION)
"""Metrics that only runs with a second GPU as a store know, beside the times of ``STORAGE_TIMES``."""

TOTALS = (
    Metric("link_utilisation", "link busy", "busy time of the link / simulated time, prefill included"),
    Metric("cpu_utilisation", "CPU busy", "busy time of the CPU / simulated time, prefill included"),
    Metric("simulated_s", "simulated time", "simulated time of the whole replay", SECONDS),
)
"""Of the whole replay, without an interval."""

TOKENS_PER_S = Metric(
    "tokens_per_s", "tokens per second", "decode tokens, of drafts the accepted ones / time of all decode steps",
    PLAIN, ("num_tokens",), ("latency_ns",), 1e-9, higher_is_better=True, heading="tokens/s",
)  # fmt: skip
UNION_SIZE = Metric(
    "union_size", "distinct experts per layer step", "distinct experts that a decode step demands of a layer: the "
    "union over its rows",
    PLAIN, ("demanded",), ("layer_steps",), heading="distinct experts",
)  # fmt: skip

DECODE_MEASURES = (
    Metric(
        "bytes_per_step", "copied per step", "bytes copied to the GPU / steps", BYTES, ("copied_bytes",), ("steps",),
    ),
    Metric(
        "copies_per_step", "copies per step", "demand copies and prefetches / steps",
        PLAIN, ("demand_copies", "prefetch_copies"), ("steps",),
    ),
    *(
        Metric(f"{end}_per_token", f"prefetches {end} per token", f"prefetches that ended {end} / tokens",
               PLAIN, (f"prefetch_{end}",), ("num_tokens",))
        for end in ("used", "late", "wasted", "abandoned")
    ),
    TOKENS_PER_S,
    UNION_SIZE,
)  # fmt: skip
"""Of decode steps, with the prefix `decode.`: what figures show beside metrics.json."""

SPECULATION = (
    TOKENS_PER_S,
    Metric(
        "acceptance_rate", "drafts accepted", "accepted drafts / drafts that were verified; those behind the first "
        "rejected one count as verified",
        FRACTION, ("accepted_drafts",), ("drafts",), higher_is_better=True, heading="accepted %",
    ),
    Metric(
        "accepted_tokens_per_step", "tokens per step and request", "decode tokens / (decode step, request) pairs: one, "
        "and the drafts accepted with it",
        PLAIN, ("num_tokens",), ("num_requests",), higher_is_better=True, heading="tokens per step",
    ),
    UNION_SIZE,
    Metric(
        "rolled_back_per_token", "K and V rolled back per token", "rejected drafts, whose keys and values were written "
        "and are thrown away / decode tokens; it takes no time",
        PLAIN, ("rejected_drafts",), ("num_tokens",),
    ),
    Metric(
        "draft_s_per_token", "time of drafting", "time that the draft's passes take / decode tokens; it is contained "
        "in the times of `attention`, `launch` and `host`",
        SECONDS, ("token_draft_ns",), ("num_tokens",), 1e9,
    ),
)  # fmt: skip
"""Of decode steps, in runs with ``speculate.tokens`` above 0."""

BESIDE_PLAIN = (
    Metric(
        "verify_over_plain", "verifying step / plain step", "mean time of a decode step, drafting included / that of "
        "the same replay with `speculate.tokens=0`", PLAIN,
    ),
    Metric(
        "speedup_over_plain", "speedup over no drafts", "`tokens_per_s` / that of the same replay with "
        "`speculate.tokens=0`", PLAIN, higher_is_better=True,
    ),
    Metric(
        "break_even_acceptance", "break-even acceptance", "`speculate.acceptance` at which as many tokens per step are "
        "expected as `verify_over_plain` says, with the decay as it is, so that neither way is faster; the step's time "
        "is taken not to depend on it; null where even 1 does not suffice", FRACTION,
    ),
)  # fmt: skip
"""Of runs with ``speculate.tokens`` above 0 and a clock, without an interval."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A metric of some phases, under its name in metrics.json; `quantile`: over requests, None for a mean or ratio."""

    name: str
    metric: Metric
    phases: tuple[int, ...]
    quantile: float | None = None

    @property
    def request_time(self) -> str | None:
        """The column of the requests' table that it is a mean or quantile of."""
        return self.metric.name if self.metric in (*REQUEST_TIMES, *TURN_TIMES) else None

    @property
    def is_time(self) -> bool:
        """Whether it rests on the figures of the hardware file."""
        return self.metric.unit is SECONDS


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        *(Quantity(f"{prefix}{rate.name}", rate, phases) for prefix, phases in PREFIXES.items() for rate in RATES),
        *(
            Quantity(f"{time.name}.{kind}", time, PREFIXES[""], QUANTILES.get(kind))
            for time in REQUEST_TIMES
            for kind in ("mean", *QUANTILES)
        ),
        Quantity(f"{TOKEN_TIME.name}.mean", TOKEN_TIME, PREFIXES["decode."]),
        *(Quantity(part.name, part, PREFIXES["decode."]) for part in PART_TIMES),
    )
}
"""All that have an interval and can be compared."""

MEASURES = {
    f"decode.{measure.name}": Quantity(f"decode.{measure.name}", measure, PREFIXES["decode."])
    for measure in DECODE_MEASURES
}

SPECULATIONS = {metric.name: Quantity(metric.name, metric, PREFIXES["decode."]) for metric in SPECULATION}
"""What has an interval in runs that speculate."""

TIERED = {
    f"{prefix}{rate.name}": Quantity(f"{prefix}{rate.name}", rate, phases)
    for prefix, phases in PREFIXES.items()
    for rate in (*TIER_RATES, *PEER_RATES)
} | {time.name: Quantity(time.name, time, PREFIXES["decode."]) for time in STORAGE_TIMES}
"""What has an interval in runs with storage, or with a second GPU as a store."""


OF_TURNS = {
    f"{time.name}.{kind}": Quantity(f"{time.name}.{kind}", time, PREFIXES[""], QUANTILES.get(kind))
    for time in TURN_TIMES
    for kind in ("mean", *QUANTILES)
}
"""Those of runs whose requests are turns of chats, which others do not know."""


def quantity_of(name: str) -> Quantity:
    """What stands under `name` in metrics.json; `tpot_s` alone is its mean.

    Raises: UserError for a name without interval.
    """
    known = QUANTITIES | OF_TURNS | SPECULATIONS | TIERED
    if f"{name}.mean" in known and name != TOKEN_TIME.name:
        return replace(known[f"{name}.mean"], name=name)
    quantity = known.get(name) or MEASURES.get(name)
    if quantity is None:
        longer = [one for one in (*QUANTITIES, *MEASURES) if one.startswith((f"{name}_", f"{name}."))]
        raise UserError(f"metric {name} is not known: {suggest(longer[0] if longer else name, QUANTITIES)}")
    return quantity


def decode_time(batch_sizes: Iterable[int]) -> str:
    """The time that runs of these batch sizes are judged by, and the one that papers call decoding latency.

    Alone, a request's TPOT; in a batch that includes waiting while other prompts are prefilled, so the decode step's.
    """
    return "tpot_s.mean" if all(size == 1 for size in batch_sizes) else "itl_s.mean"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of runs: the quantity it shows, its heading, the factor and the digits of its numbers."""

    name: str
    heading: str
    scale: float
    form: str


def column_of(name: str, heading: str = "") -> Column:
    """The column that shows a quantity, under its metric's heading unless another is given."""
    metric = quantity_of(name).metric
    return Column(name, heading or metric.heading, metric.unit.scale, metric.form or metric.unit.form)
