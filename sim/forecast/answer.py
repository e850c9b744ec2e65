"""Puts a forecast together: the plans of a machine with their rates, what would help, and what all of it rests on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sim.forecast.ask import Ask, Plan, Refusal
from sim.forecast.first_token import FirstToken, first_token
from sim.forecast.machines import ForecastMachine, with_next_link
from sim.forecast.models import ForecastModel
from sim.forecast.nearest import Nearest, nearest_rows
from sim.forecast.plans import plans_for
from sim.forecast.predict import Forecast, forecast
from sim.forecast.routing import Routing
from sim.forecast.shipped import is_checked
from sim.validation.published.corpus.rule import Setting
from traces.errors import UserError

GPU_GIB = (16, 24, 32, 48, 96)
"""Memory of cards as they are sold."""
GPUS_SHOWN = 3
NEARLY_GIB = 0.5
"""A card is no larger that has less than this more."""
REASONS = 2
"""Shown where nothing runs: those of the runtime that is asked for first."""


@dataclass(frozen=True, slots=True)
class Rated:
    """A plan with its forecast; ``checked``: published rows of its kind were predicted without their machine."""

    plan: Plan
    forecast: Forecast
    checked: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What another part would give: the best plan then, anew."""

    what: str
    tokens_per_s: float | None
    ratio: float | None
    plan: str
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Looser:
    """What to do where a plan that fits on paper does not: the flag, and tokens per second then."""

    flag: str
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that the screen says."""

    model: ForecastModel
    machine: ForecastMachine
    context: int
    ask: Ask
    rated: tuple[Rated, ...]
    refusals: tuple[Refusal, ...]
    changes: tuple[Change, ...]
    nearest: tuple[Nearest, ...]
    routing: Routing | None
    own_rows: int
    """Rows of this machine that were measured."""
    first_token: FirstToken | None = None
    """Of the best plan."""
    foreign_rows: int = 0
    """Rows that are kept of other machines."""
    without_rows: tuple[Rated, ...] = ()
    """The same plans without this machine's rows, in the order that they have then; changes are over the first."""
    looser: Looser | None = None
    """Of the best plan."""

    @property
    def best(self) -> Rated:
        """Of the plans of a kind that published rows speak of, the one whose interval begins highest."""
        return self.rated[0]

    @property
    def on_paper(self) -> Rated | None:
        """The fastest plan that no published row speaks of, where it is faster than the best."""
        others = [one for one in self.rated if not one.checked and one is not self.best]
        faster = max(others, key=lambda one: one.forecast.tokens_per_s, default=None)
        return faster if faster and faster.forecast.tokens_per_s > self.best.forecast.tokens_per_s else None


def answer(ask: Ask, runtimes: Sequence[str], own_rows: Sequence[Setting], foreign_rows: int = 0) -> Answer:
    """Forecast every plan of these runtimes. ``own_rows``: measured on this machine; how many of others are kept.

    Raises: UserError with every reason where there is no plan.
    """
    plans, refusals = plans_for(ask, runtimes)
    if not plans:
        reasons = list(dict.fromkeys(f"{refusal.runtime}: {refusal.why}" for refusal in refusals))[:REASONS]
        hint = [ask.model.smaller] if ask.model.smaller else []
        raise UserError(
            f"no plan runs {ask.model.dimensions.name} on {ask.machine.name}: {'; '.join([*reasons, *hint])}"
        )
    rated, without = rate(plans, own_rows), rate(plans, ())
    return Answer(
        ask.model,
        ask.machine,
        ask.context,
        ask,
        tuple(rated),
        tuple(refusals),
        tuple(changes(ask, runtimes, own_rows, without[0])),
        tuple(nearest_rows(rated[0].plan.setting)),
        ask.routing,
        len(own_rows),
        first_token(rated[0].plan.setting, ask.prompt, 1 / rated[0].forecast.tokens_per_s),
        foreign_rows,
        tuple(without),
        looser(rated[0].plan, ask.layers, own_rows),
    )


def rate(plans: Sequence[Plan], own_rows: Sequence[Setting]) -> list[Rated]:
    """Plans with their forecasts: kinds that published rows speak of first, then by what is nearly certain."""
    rated = [
        Rated(
            plan,
            forecast(plan.setting, own_rows, plan.with_fewer_hits, plan.layers, plan.fewer_layers),
            plan.checked and is_checked(plan.setting.runtime, plan.setting.placement.kind),
        )
        for plan in plans
    ]
    return sorted(rated, key=lambda one: (not one.checked, -one.forecast.low))


def changes(ask: Ask, runtimes: Sequence[str], own_rows: Sequence[Setting], best: Rated) -> list[Change]:
    """What the usual purchases would give, each alone. Ratios are over ``best``, the best plan without the machine's
    rows, and without rows on both sides, for rows move plans of their own kind by more than others."""
    rates = ask.machine.rates
    found: list[Change] = []

    def changed(what: str, **figures: float) -> None:
        shared = ask.machine.shared_bytes
        more = figures.get("ram_bytes", rates.ram_bytes or 0.0) / (rates.ram_bytes or 1.0)
        machine = replace(
            ask.machine,
            rates=replace(rates, **figures),  # type: ignore[arg-type]
            shared_bytes=None if shared is None else shared * more,
        )
        found.append(_changed(what, replace(ask, machine=machine), runtimes, own_rows, best))

    if ask.machine.has_gpu and not rates.unified:
        has = (rates.vram_bytes or 0.0) / 2**30 + NEARLY_GIB
        for size in [size for size in GPU_GIB if size > has][:GPUS_SHOWN]:
            changed(f"this GPU with {size} GB", vram_bytes=size * 2.0**30)
    if rates.ram_bytes_per_s is not None and not rates.unified:
        changed("RAM twice as fast", ram_bytes_per_s=2 * rates.ram_bytes_per_s)
    faster = with_next_link(rates)
    if faster is not None:
        changed("the next PCIe", link_bytes_per_s=faster)
    disk = "a disk twice as fast"
    reads = best.plan.setting.placement.miss and best.forecast.shares.get("storage")
    if rates.storage_bytes_per_s is not None and reads:
        changed(disk, storage_bytes_per_s=2 * rates.storage_bytes_per_s)
    else:
        found.append(Change(disk, None, None, "", "nothing is read from storage while it writes"))
    more = "twice the memory" if rates.unified else "twice the RAM"
    if rates.ram_bytes is not None:
        changed(more, ram_bytes=2 * rates.ram_bytes)
    else:
        found.append(Change(more, None, None, "", "how much RAM there is is not stated"))
    return found


def looser(plan: Plan, layers: int, own_rows: Sequence[Setting]) -> Looser | None:
    """llama.cpp's plan with the experts of one layer more on the CPU; None where there is no such plan."""
    place, count = plan.setting.placement, re.search(r"--n-cpu-moe (\d+)", plan.flags)
    if plan.runtime != "llama_cpp" or not plan.checked or count is None or not 0 < place.cpu_layers < layers:
        return None
    setting = replace(plan.setting, placement=replace(place, cpu_layers=place.cpu_layers + 1))
    return Looser(f"--n-cpu-moe {int(count[1]) + 1}", forecast(setting, own_rows).tokens_per_s)


def _changed(what: str, ask: Ask, runtimes: Sequence[str], own_rows: Sequence[Setting], best: Rated) -> Change:
    """The best plan of a machine in which one part is another."""
    plans, refusals = plans_for(ask, runtimes)
    then = next((one for one in rate(plans, ()) if one.checked or not best.checked), None)
    if then is None:
        return Change(what, None, None, "", next((refusal.why for refusal in refusals), "no such plan"))
    ratio = then.forecast.tokens_per_s / best.forecast.tokens_per_s
    same = then.plan.what == best.plan.what and then.plan.runtime == best.plan.runtime
    (own,) = rate([then.plan], own_rows)
    plan = "the same plan" if same else f"{then.plan.what}{_hits(then.plan)}"
    return Change(what, own.forecast.tokens_per_s, ratio, plan)


def _hits(plan: Plan) -> str:
    return "" if plan.hit_rate is None else f", {100 * plan.hit_rate:.0f} % hits"
