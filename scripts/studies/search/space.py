"""What is searched: compositions of parts and their knobs, drawn by Optuna."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from policies.assignment.best_split import BestSplit
from policies.assignment.greedy_balance import GreedyBalance
from policies.assignment.reuse_split import ReuseSplit
from policies.assignment.simulated_split import SimulatedSplit
from policies.assignment.two_pointer import TwoPointer
from policies.base import Assignment, Eviction, Policy, Prediction, Prefetch, Substitution
from policies.eviction.aged_lfu import AgedLfu
from policies.eviction.expected_reuse import ExpectedReuse
from policies.eviction.lru import Lru
from policies.eviction.mrs import Mrs
from policies.eviction.score_window import ScoreWindow
from policies.prediction.lookahead import Lookahead
from policies.prediction.none import NoPrediction
from policies.prefetch.budgeted import Budgeted
from policies.prefetch.idle_pieces import IdlePieces
from policies.prefetch.none import NoPrefetch
from policies.prefetch.top_score import TopScore
from policies.substitution.critical_path import CriticalPath
from policies.substitution.importance_plus import ImportancePlus
from policies.substitution.none import NoSubstitution
from policies.substitution.score_band import ScoreBand
from scripts.studies.search.places import Place
from scripts.studies.search.replays import PolicyAt
from sim.assembly.catalogue import load_policy

Knobs = Mapping[str, Any]


class Trial(Protocol):
    """What of `optuna.Trial` the space needs."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...


ASSIGNMENTS: dict[str, Callable[[], Assignment]] = {
    "two_pointer": TwoPointer,
    "greedy_balance": GreedyBalance,
    "simulated_split": SimulatedSplit,
    "best_split": BestSplit,
    "reuse_split": ReuseSplit,
}


def draw(trial: Trial) -> Knobs:
    """The parts of a candidate and the knobs that they have, by name: what `policy_at` takes."""
    knobs: dict[str, Any] = {}

    def name(part: str, *choices: str) -> str:
        knobs[part] = trial.suggest_categorical(part, choices)
        return str(knobs[part])

    def number(knob: str, low: float, high: float, log: bool = False) -> None:
        knobs[knob] = trial.suggest_float(knob, low, high, log=log)

    def whole(knob: str, low: int, high: int, log: bool = False) -> None:
        knobs[knob] = trial.suggest_int(knob, low, high, log=log)

    eviction = name("eviction", "lru", "aged_lfu", "score_window", "mrs", "expected_reuse")
    if eviction == "score_window":
        whole("window", 4, 256, log=True)
    elif eviction == "mrs":
        number("mrs_alpha", 0.02, 0.9, log=True)
    elif eviction == "expected_reuse":
        number("reuse_rate", 0.005, 0.5, log=True)
        number("routed", 0.01, 10.0, log=True)
    prefetch = name("prefetch", "none", "top_score", "budgeted", "idle_pieces")
    if prefetch == "top_score":
        number("prefetch_alpha", 0.0, 1.0)
        knobs["link_idle"] = trial.suggest_categorical("link_idle", (False, True))
    elif prefetch == "budgeted":
        number("window_share", 0.25, 4.0, log=True)
    elif prefetch == "idle_pieces":
        whole("pieces", 1, 32, log=True)
        number("least", 0.005, 0.5, log=True)
    substitution = name("substitution", "none", "score_band", "importance_plus", "critical_path")
    if substitution == "score_band":
        number("alpha_share", 0.2, 1.5)
    elif substitution == "importance_plus":
        number("loss", 0.01, 0.15, log=True)
    elif substitution == "critical_path":
        number("budget_share", 0.5, 1.2)
        whole("keep", 0, 2)
        number("price", 0.3, 30.0, log=True)
        number("price_rate", 0.01, 3.0, log=True)
    name("assignment", *ASSIGNMENTS)
    return knobs


def policy_at(knobs: Knobs) -> PolicyAt:
    """The policy of a candidate at a place."""

    def at(place: Place) -> Policy:
        early = knobs["prefetch"] != "none"
        prediction: Prediction = Lookahead() if early else NoPrediction()
        return replace(
            load_policy("lru"),
            name="candidate",
            eviction=eviction_of(knobs),
            prediction=prediction,
            prefetch=prefetch_of(knobs),
            substitution=substitution_of(knobs, place.alpha),
            assignment=ASSIGNMENTS[knobs["assignment"]](),
        )

    return at


def eviction_of(knobs: Knobs) -> Eviction:
    match knobs["eviction"]:
        case "score_window":
            return ScoreWindow(window=knobs["window"])
        case "mrs":
            return Mrs(alpha=knobs["mrs_alpha"])
        case "expected_reuse":
            return ExpectedReuse(rate=knobs["reuse_rate"], routed=knobs["routed"])
        case "aged_lfu":
            return AgedLfu()
        case _:
            return Lru()


def prefetch_of(knobs: Knobs) -> Prefetch:
    match knobs["prefetch"]:
        case "top_score":
            return TopScore(alpha=knobs["prefetch_alpha"], link_idle=knobs["link_idle"])
        case "budgeted":
            return Budgeted(share=knobs["window_share"])
        case "idle_pieces":
            return IdlePieces(pieces=knobs["pieces"], least=knobs["least"])
        case _:
            return NoPrefetch()


def substitution_of(knobs: Knobs, alpha: float) -> Substitution:
    match knobs["substitution"]:
        case "score_band":
            return ScoreBand(alpha=min(1.0, knobs["alpha_share"] * alpha))
        case "importance_plus":
            return ImportancePlus(loss=knobs["loss"])
        case "critical_path":
            names = {"share": "budget_share", "keep": "keep", "price": "price", "rate": "price_rate"}
            return CriticalPath(alpha=alpha, **{knob: knobs[name] for knob, name in names.items()})
        case _:
            return NoSubstitution()


SHIPPED: Knobs = {
    "eviction": "expected_reuse", "reuse_rate": 0.05, "routed": 0.3,
    "prefetch": "idle_pieces", "pieces": 8, "least": 0.05,
    "substitution": "critical_path", "budget_share": 0.97, "keep": 1, "price": 5.0, "price_rate": 0.3,
    "assignment": "reuse_split",
}  # fmt: skip
"""`importance_plus` as a candidate."""
