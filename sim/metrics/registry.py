"""Every metric as a ratio of two sums over blocks, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from sim.engine.decision.counters import PARTS
from traces.errors import UserError

PREFIXES = {"": (0, 1), "prefill.": (0,), "decode.": (1,)}
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
REQUEST_TIMES = ("tpot_s", "ttft_s", "latency_s")


@dataclass(frozen=True, slots=True)
class Ratio:
    """Sum of the columns `above` over sum of the columns `below`, times `scale`."""

    above: tuple[str, ...]
    below: tuple[str, ...]
    scale: float = 1.0


RATES = {
    "hit_rate": Ratio(("hits",), ("demanded",)),
    "late_rate": Ratio(("late",), ("demanded",)),
    "cache_ratio": Ratio(("resident_executed",), ("executed",)),
    "substitution_rate": Ratio(("substituted_ranks",), ("routed_ranks",)),
    "drop_rate": Ratio(("dropped_ranks",), ("routed_ranks",)),
    "cpu_rate": Ratio(("cpu",), ("demanded",)),
    "bytes_per_token": Ratio(("copied_bytes",), ("num_tokens",)),
    "loads_per_token": Ratio(("demand_copies", "prefetch_copies"), ("num_tokens",)),
    "prefetches_per_token": Ratio(("prefetch_copies",), ("num_tokens",)),
    "prefetch_precision": Ratio(("prefetch_used", "prefetch_late"), ("prefetch_copies",)),
    "demand_to_capacity": Ratio(("demanded",), ("slot_steps",)),
    "overflow_rate": Ratio(("overflow_steps",), ("layer_steps",)),
    "lost_gate_mass": Ratio(("lost_gate_mass_tokens",), ("num_tokens",)),
}
TOKEN_TIMES = {"itl_s.mean": Ratio(("token_latency_ns",), ("num_tokens",), 1e-9)} | {
    f"{kind}_s_per_token.{part}": Ratio((f"token_{part}_ns",), ("num_tokens",), 1e-9)
    for kind, parts in (("time", PARTS), ("stall", ("link", "cpu", "launch", "sync", "host")))
    for part in parts
}
"""Of decode tokens."""

HIGHER_IS_BETTER = ("hit_rate", "cache_ratio", "prefetch_precision")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name taken apart. ``ratio`` is None for times of requests, ``quantile`` None for means."""

    name: str
    phases: tuple[int, ...]
    ratio: Ratio | None = None
    request_time: str | None = None
    quantile: float | None = None

    @property
    def is_time(self) -> bool:
        """Whether it rests on the figures of the hardware file."""
        return self.request_time is not None or self.name in TOKEN_TIMES

    @property
    def lower_is_better(self) -> bool:
        """Whether less of it is better."""
        return self.name.rpartition(".")[2] not in HIGHER_IS_BETTER


def metric_names() -> tuple[str, ...]:
    """All metrics with an interval, under their names in metrics.json."""
    rates = [f"{prefix}{name}" for prefix in PREFIXES for name in RATES]
    times = [f"{name}.{kind}" for name in REQUEST_TIMES for kind in ("mean", *QUANTILES)]
    return (*rates, *times, *TOKEN_TIMES)


def metric_of(name: str) -> Metric:
    """The metric called `name`, as in metrics.json; `tpot_s` alone is its mean.

    Raises: UserError for a name without interval.
    """
    if name in TOKEN_TIMES:
        return Metric(name, PREFIXES["decode."], TOKEN_TIMES[name])
    stem, _, kind = name.partition(".")
    if stem in REQUEST_TIMES and kind in ("", "mean", *QUANTILES):
        return Metric(name, (0, 1), request_time=stem, quantile=QUANTILES.get(kind))
    prefix = next((prefix for prefix in ("prefill.", "decode.") if name.startswith(prefix)), "")
    if name.removeprefix(prefix) in RATES:
        return Metric(name, PREFIXES[prefix], RATES[name.removeprefix(prefix)])
    raise UserError(f"metric {name} is not known: those that can be compared are {', '.join(metric_names())}")
