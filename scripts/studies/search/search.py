"""The search: Optuna draws candidates, successive halving replays the promising ones further, a log remembers all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scripts.studies.search.data import Source
from scripts.studies.search.places import Place
from scripts.studies.search.replays import Lead, PolicyAt, Rivals, leads
from scripts.studies.search.space import SHIPPED, Knobs, draw, policy_at
from traces.errors import UserError

RUNGS = ((3, 3), (6, 6), (12, 16))
"""Requests and places of each rung; one candidate in ``KEPT`` goes on from one to the next."""
KEPT, RECENT = 4, 60
"""... of the last ``RECENT`` that reached the rung, so that a search that has learned stays as cheap."""
OVERSPENT = 1.0
"""What a candidate pays in log time per unit of log loss above the bound; trading within it gains about .4."""
STARTUP = 60
"""Candidates drawn at random before Optuna models them."""
TRIED = 8
"""Points that Optuna weighs for each knob that it draws; its own 24 cost three times as much."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate of the log."""

    number: int
    knobs: Knobs
    scores: tuple[float, ...]
    """Of each rung that it reached: mean log of its time over the fastest rival's, and what overspending costs."""
    cpu_s: float

    @property
    def complete(self) -> bool:
        return len(self.scores) == len(RUNGS)

    @property
    def score(self) -> float:
        """Of the last rung that it reached."""
        return self.scores[-1]


def score_of(found: Sequence[Lead]) -> float:
    """Mean over places of log(time / time of the fastest rival), and of the log of what is lost above the bound."""
    return float(np.mean([np.log(lead.ratio) + OVERSPENT * max(0.0, np.log(lead.loss_ratio)) for lead in found]))


@dataclass(slots=True)
class Task:
    """What candidates are scored on, rung by rung."""

    source: Source
    places: Sequence[Place]
    rivals: Rivals = field(default_factory=Rivals)

    def score(self, at: PolicyAt, rung: int) -> float:
        requests, places = RUNGS[rung]
        return score_of(leads(at, self.source.first(requests), self.places[:places], self.rivals))


def read_log(path: Path) -> list[Entry]:
    """The candidates of a log; a last line that a kill cut short is left out. Raises: UserError for another log."""
    if not path.is_file():
        return []
    found = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            found.append(Entry(record["number"], record["knobs"], tuple(record["scores"]), record["cpu_s"]))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: is no candidate of a search: give another folder") from None
    path.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
    return found


def search(task: Task, path: Path, candidates: int, seed: int, say: Callable[[str], None]) -> list[Entry]:
    """Draw candidates until the log holds so many, each written as soon as it is judged -> all of them.

    Raises: UserError where Optuna is not installed.
    """
    done = read_log(path)
    study = study_of(done, seed)
    began = time.process_time()
    with path.open("a", encoding="utf-8") as log:
        while len(done) < candidates:
            started = time.process_time()
            trial = study.ask()
            knobs, scores = draw(trial), []
            for rung in range(len(RUNGS)):
                scores.append(task.score(policy_at(knobs), rung))
                if rung + 1 < len(RUNGS) and not promising(done, scores):
                    break
            study.tell(trial, scores[-1])
            done.append(Entry(len(done), dict(knobs), tuple(scores), round(time.process_time() - started, 3)))
            log.write(json.dumps(asdict(done[-1])) + "\n")
            log.flush()
            if len(done) % 100 == 0:
                best = min((one.score for one in done if one.complete), default=float("nan"))
                used = time.process_time() - began
                say(f"{len(done)} candidates, best score {np.exp(best):.4f}, {used:.0f} s of processor time")
    return done


def promising(done: Sequence[Entry], scores: Sequence[float]) -> bool:
    """Whether a candidate is among the best third of those that reached its rung lately (asynchronous halving).

    Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", https://arxiv.org/abs/1810.05934.
    """
    rung = len(scores) - 1
    others = [one.scores[rung] for one in done if len(one.scores) > rung][-RECENT:]
    return scores[-1] <= sorted([*others, scores[-1]])[len(others) // KEPT]


def study_of(done: Sequence[Entry], seed: int) -> Any:
    """An Optuna study that knows the candidates of the log; the shipped policy is the first of a new one."""
    try:
        import optuna
    except ImportError:
        raise UserError('the search needs Optuna: pip install -e ".[sweep]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, n_ei_candidates=TRIED, seed=seed + len(done))
    study = optuna.create_study(sampler=sampler)
    for one in done:
        fixed = optuna.trial.FixedTrial(dict(one.knobs))
        draw(fixed)
        study.add_trial(
            optuna.trial.create_trial(params=fixed.params, distributions=fixed.distributions, value=one.score)
        )
    if not done:
        study.enqueue_trial(dict(SHIPPED))
    return study
