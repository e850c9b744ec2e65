"""What would be gained: the same replay with one thing idealised at a time, and which of them binds.

Every scenario is replayed in full by the compiled engine, so it is exact within the model: no estimate from shares of
time. Results are SIMULATED like the replay they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from policies.eviction.oracle import Oracle as OracleEviction
from policies.prediction.oracle import Oracle
from policies.prefetch.layers_ahead import LayersAhead
from sim.assembly.replay import Replay, blocks_together
from sim.config import TimeConfig
from sim.machine.machine import PARAMETERS
from sim.machine.parts import PARTS
from sim.metrics.registry import HOST_LINK_UTILISATION
from sim.metrics.step_table import Columns, Forget, Metrics, StepTable
from sim.statistics.bootstrap import request_interval
from traces.errors import UserError

SATURATED = 0.9
"""Share of the time from which on a resource is said to bind."""
LEAST_GAIN = 0.001
"""Relative change of TPOT below which a scenario gains nothing worth naming."""
LAYERS_AHEAD = 3
ENDLESS = 1e18
"""Bytes per second."""
EXACT = (
    "each row is an exact replay of the model with that change and nothing else; oracle eviction and perfect prefetch "
    "exchange rules of the policy. Oracle eviction bounds the hits of rules that fetch equal experts on demand, "
    "not times, and neither bounds anything where the policy substitutes experts, since both follow the router"
)
Change = Callable[[Policy, TimeConfig], tuple[Policy, TimeConfig]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A change to policy and time model; ``binds`` names what was in the way if it gains most."""

    name: str
    binds: str
    change: Change
    more: Callable[[Replay], dict[str, Any]] = lambda replay: {}
    """Other fields of the set-up that it changes."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a scenario came to."""

    name: str
    binds: str
    tpot_s: float | None
    change: float | None
    """Relative change of TPOT: -0.4 is 40 % faster."""
    hit_rate: float | None
    refused: str | None = None
    """Why it cannot be replayed."""


def oracle_eviction(policy: Policy, time: TimeConfig) -> tuple[Policy, TimeConfig]:
    """Eviction that sees the future: what stays is chosen once the step is known."""
    return replace(policy, eviction=OracleEviction()), time


def perfect_prefetch(policy: Policy, time: TimeConfig) -> tuple[Policy, TimeConfig]:
    """At every lookup all experts that the next layers will route to are queued, the next layer first."""
    return replace(policy, prediction=Oracle(LAYERS_AHEAD), prefetch=LayersAhead()), time


def infinite_link(policy: Policy, time: TimeConfig) -> tuple[Policy, TimeConfig]:
    """Copies take no time, on the link or on the host."""
    return policy, replace(time, link=False, link_call=False)


def infinite_storage(policy: Policy, time: TimeConfig) -> tuple[Policy, TimeConfig]:
    """Reads take no time."""
    return policy, replace(time, storage=False)


def nothing(policy: Policy, time: TimeConfig) -> tuple[Policy, TimeConfig]:
    """Rules and time model stay."""
    return policy, time


def whole_host(replay: Replay) -> dict[str, Any]:
    """Host memory holds any model."""
    machine = replay.setup.machine.with_figures({"host_memory_bytes": None})
    return {"machine": machine, "host": replace(replay.setup.host, bytes=None)}


def whole_peer(replay: Replay) -> dict[str, Any]:
    """The second GPU holds any model, from the start."""
    devices = replace(replay.setup.devices, peer_bytes=max(1, replay.pools.model_bytes))
    return {"devices": devices, "host": replace(replay.setup.host, start="warm")}


def infinite_second_link(replay: Replay) -> dict[str, Any]:
    """The second GPU's copies take no time beyond what each takes whatever its size."""
    return {"devices": replace(replay.setup.devices, second_link_bytes_per_s=ENDLESS)}


def no_overhead(policy: Policy, time: TimeConfig) -> tuple[Policy, TimeConfig]:
    """Launches, the constants of every layer (read-back, synchronisation, the host's bookkeeping) and what the host
    does with experts that were read take no time."""
    off: dict[str, Any] = {parameter.switch: False for parameter in PARAMETERS.values() if parameter.each_layer}
    return policy, replace(time, launch=False, install=False, **off)


def all_resident(policy: Policy, time: TimeConfig) -> tuple[Policy, TimeConfig]:
    """Every expert has a slot and starts in it."""
    return replace(policy, residency="all"), time


SCENARIOS = (
    Scenario("infinite link", "the link", infinite_link),
    Scenario("zero launch, sync and host time", "launches, synchronisation and host time", no_overhead),
    Scenario("perfect prefetch", "how early and how well experts are predicted", perfect_prefetch),
    Scenario("oracle eviction", "what the eviction rule keeps", oracle_eviction),
    Scenario("all resident", "the capacity of the cache", all_resident),
)
OF_STORAGE = Scenario("infinite storage", "storage", infinite_storage)
OF_HOST = Scenario("every expert in host memory", "host memory", nothing, whole_host)
"""Of runs with storage; the second where slots are not all the memory that there is."""
OF_PEER = (
    Scenario("infinite link between the GPUs", "the link between the GPUs", infinite_link),
    Scenario("infinite second link", "the second link", infinite_storage),
    Scenario("every expert in the second GPU", "the second GPU's memory", nothing, whole_peer),
)
"""Of runs with a second GPU as a store, in place of the infinite link."""
OF_SECOND_LINK = Scenario("infinite second link", "the second link", nothing, infinite_second_link)
"""Of runs on two GPUs; a copy over it keeps its fixed time."""
TOGETHER = "together, without all resident"
"""All resident leaves nothing for link, prefetch and eviction to do."""


@dataclass(slots=True)
class _Measured:
    """A scenario with the table of its replay, or why there is none."""

    scenario: Scenario
    table: StepTable | None
    refused: str | None = None

    def row(self, base_s: float | None) -> Row:
        name, binds = self.scenario.name, self.scenario.binds
        if self.table is None:
            return Row(name, binds, None, None, None, self.refused)
        metrics = self.table.metrics()
        tpot_s, hit_rate = _tpot(metrics), metrics["hit_rate"]
        change = tpot_s / base_s - 1.0 if tpot_s is not None and base_s else None
        assert hit_rate is None or isinstance(hit_rate, float)
        return Row(name, binds, tpot_s, change, hit_rate)


def what_if(
    replay: Replay, progress: Callable[[int], Any] = lambda steps: None, ran: StepTable | None = None
) -> dict[str, Any]:
    """Every scenario of a replay that ran or is yet to run: baseline, rows, and the sentence that names what binds.

    All go through the trace together, which is read once. ``progress`` is told how many steps were replayed in each.
    ``ran``: what the replay gave, where it ran.
    """
    measured = [_assembled(replay, scenario) for scenario in scenarios_of(replay)]
    possible = [each.scenario for each in measured if each.table is not None]
    joint = _assembled(replay, Scenario(TOGETHER, "", _all_of([s for s in possible if s.change is not all_resident])))
    base = ran or StepTable(replay.assemble_again(), Forget())
    tables = [each.table for each in (*measured, joint) if each.table is not None]
    tables += [base] if ran is None else []
    for results in blocks_together([table.replay for table in tables]):
        for table, result in zip(tables, results, strict=True):
            table.add(result)
        progress(len(results[0].block))
    metrics = base.metrics()
    base_s = _tpot(metrics)
    rows = [each.row(base_s) for each in measured]
    tpots = {each.scenario.name: each.table.requests()["tpot_s"] for each in measured if each.table is not None}
    return {
        "label": "SIMULATED",
        "note": EXACT,
        "baseline": {"tpot_s": base_s, "hit_rate": metrics["hit_rate"]},
        "scenarios": [asdict(row) for row in (*rows, joint.row(base_s))],
        "binding": binding(base.requests(), rows, tpots),
        "bound": bound(metrics),
    }


def scenarios_of(replay: Replay) -> tuple[Scenario, ...]:
    """What could be idealised of a replay."""
    if replay.setup.devices.splits:
        return (*SCENARIOS, OF_SECOND_LINK, *([] if replay.spec.host is None else [OF_STORAGE, OF_HOST]))
    if replay.setup.devices.stores:
        return (*(scenario for scenario in SCENARIOS if scenario.change is not infinite_link), *OF_PEER)
    if replay.spec.host is None:
        return SCENARIOS
    unified = replay.hardware.unified_memory
    rest = [scenario for scenario in SCENARIOS if not (unified and scenario.change is infinite_link)]
    return (*rest, OF_STORAGE) if unified else (*rest, OF_STORAGE, OF_HOST)


def _all_of(scenarios: Sequence[Scenario]) -> Change:
    def change(policy: Policy, time: TimeConfig) -> tuple[Policy, TimeConfig]:
        for scenario in scenarios:
            policy, time = scenario.change(policy, time)
        return policy, time

    return change


def _assembled(replay: Replay, scenario: Scenario) -> _Measured:
    """The same replay under a scenario's policy and time model, ready to run."""
    try:
        policy, time = scenario.change(replay.policy, replay.setup.time)
        changed = replay.assemble_again(policy=policy, time=time, **scenario.more(replay))
        return _Measured(scenario, StepTable(changed, Forget()))
    except UserError as error:
        return _Measured(scenario, None, str(error))


def _tpot(metrics: Metrics) -> float | None:
    value = metrics["tpot_s.mean"]
    return value if isinstance(value, float) else None


def binding(requests: Columns, rows: Sequence[Row], tpots: dict[str, NDArray[np.float64]]) -> str:
    """One sentence: which change gains most, and which others gain as much within the noise over requests.

    ``requests``: of the replay as it is; ``tpots``: TPOT of every request [R] by scenario.
    """
    ranked = sorted((row for row in rows if row.change is not None), key=lambda row: row.change or 0.0)
    if not ranked:
        return "no request has a time per output token, so nothing can be said to bind"
    best = ranked[0]
    if best.change is None or best.change > -LEAST_GAIN:
        return f"none of these changes gains {LEAST_GAIN:.1%}: computing attention and experts binds"
    sentence = f"what binds is {best.binds}: {best.name} changes TPOT most, by {best.change:+.1%}"
    if len(np.unique(requests["group"])) < 2:
        return f"{sentence} (one batch of requests: its noise is not known)"
    equal = [row for row in ranked[1:] if _gains_as_much(requests, row, tpots[best.name], tpots[row.name])]
    if equal:
        others = ", ".join(f"{row.name} ({row.change:+.1%}: {row.binds})" for row in equal)
        sentence += f"; within the noise over requests so does {others}"
    return sentence


def _gains_as_much(requests: Columns, row: Row, best_s: NDArray[np.float64], other_s: NDArray[np.float64]) -> bool:
    """Whether a change gains something, and what it falls short of the best one could be chance."""
    low, high = difference(requests["group"], best_s, other_s)
    return row.change is not None and row.change < -LEAST_GAIN and low <= 0 <= high


def difference(
    group: NDArray[np.int64], one_s: NDArray[np.float64], other_s: NDArray[np.float64]
) -> tuple[float, float]:
    """95 % interval of the mean of ``one_s - other_s`` [R] over requests, drawn again by lockstep batch."""
    known = ~np.isnan(one_s - other_s)
    _, blocks = np.unique(group[known], return_inverse=True)
    sums = np.bincount(blocks, weights=(one_s - other_s)[known])
    return request_interval(np.asarray(sums, np.float64), np.asarray(np.bincount(blocks), np.float64))


def bound(metrics: Metrics) -> str:
    """One sentence: the resource that is busy most of the time, or the largest part of a token's time."""
    resources = {"link": "link_utilisation", "CPU": "cpu_utilisation", "storage": "storage_utilisation"}
    resources["second GPU's link"] = HOST_LINK_UTILISATION.name
    for name, key in resources.items():
        busy = metrics.get(key)
        if isinstance(busy, float) and busy > SATURATED:
            return f"{name}-bound: the {name} is busy {busy:.0%} of the time"
    spent = {part: float(metrics.get(f"time_s_per_token.{part}") or 0.0) for part in PARTS}
    whole = sum(spent.values())
    if whole == 0.0:
        return "no time was spent in decode steps"
    for name, parts in {
        "compute-bound: the GPU computes": ("attention", "expert"),
        "overhead-bound: launches, synchronisation and the host take": ("launch", "sync", "host"),
    }.items():
        share = sum(spent[part] for part in parts) / whole
        if share > SATURATED:
            return f"{name} {share:.0%} of a decode step"
    largest = max(spent, key=lambda part: spent[part])
    waits = {"link": "waiting for the link", "cpu": "waiting for the CPU", "storage": "waiting for storage"}
    if HOST_LINK_UTILISATION.name in metrics:
        waits["storage"] = "waiting for host memory"
    words = waits.get(largest, largest)
    return f"nothing is busy {SATURATED:.0%} of the time; the largest part is {words}, {spent[largest] / whole:.0%}"
