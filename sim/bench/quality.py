"""How far a policy that replaces experts moves the output of a real model, MEASURED in every cell of the suite.

The demo model decodes the suite's text twice, untouched and with the policy inside its forward pass, on the machine,
budget and batch size of each cell: at batch size 4 four windows share a device in lockstep. All cells run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from sim.bench.suite import BATCHES, CELLS, Cell, Played
from sim.bench.text import EVALUATED, LEARNED_FROM, TOKENS, frozen_text
from sim.statistics.bootstrap import Estimate, estimate, ratio
from traces.errors import UserError
from traces.torch_threads import single_thread

if TYPE_CHECKING:
    import torch

    from sim.quality.modelled_device import ModelledDevice
    from sim.quality.study import Study
    from traces.recording.loading import LoadedModel

KL = 2
"""Column of `sim.quality.measures.COLUMNS`."""
AS_MUCH = 0.7
"""A policy must give up at least this share of the gate mass that it gives up in the replays, or its measure says
nothing of them. Shipped ones give up .93 to 1.35 of it."""


@dataclass(frozen=True, slots=True)
class Quality:
    """KL(untouched || with the policy), nats per token, with its 95 % interval over documents, in the worst cell; or
    ``why`` it was not measured."""

    kl: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    why: str = ""


def measured(policy: DictConfig, played: Played, tell: Callable[[], object] = lambda: None) -> Quality:
    """The quality of a policy, composed, that replaces experts; `tell` after each of `PASSES` forward passes."""
    if played.in_prompts:
        return Quality(why="it replaces experts of prompts, and the suite's text has none")
    try:
        with single_thread():
            found = [one for batch in BATCHES for one in _in_cells(policy, batch, tell)]
    except ModuleNotFoundError as error:
        return Quality(why=f"{error.name} is not installed, and the model that measures it runs on torch")
    except UserError as error:
        return Quality(why=str(error))
    for cell, replayed, (_, lost) in zip(CELLS, played.cells, found, strict=True):
        if lost < AS_MUCH * replayed.lost_gate_mass:
            return Quality(
                why=f"it gives up {lost:.1%} of the gate mass on the suite's text and {replayed.lost_gate_mass:.1%} "
                f"in its replays ({' '.join(cell.machine)}, batch size {cell.batch}): the one does not speak of the "
                "other"
            )
    worst = max((one for one, _ in found), key=lambda one: one.high)
    return Quality(worst.value, worst.low, worst.high)


PASSES = len(BATCHES) * TOKENS


@cache
def _model() -> LoadedModel:
    from sim.assembly.model_source import ModelSource

    return ModelSource("demo", None, dtype="float32").load()[0]


@cache
def _untouched() -> torch.Tensor:
    """Logits [windows, tokens, V] of the model without a policy."""
    from sim.quality.parallel import plain_logits

    return plain_logits(_model().model, frozen_text().tokens[:EVALUATED])


@cache
def _learned_from(similarity: bool) -> tuple[Any, Any]:
    """What rules learn from, and the model's layers."""
    from sim.quality.calibration import record_windows

    return record_windows(_model(), frozen_text().part(EVALUATED, EVALUATED + LEARNED_FROM), similarity, seed=0)


def _in_cells(policy: DictConfig, batch: int, tell: Callable[[], object]) -> list[tuple[Estimate, float]]:
    """(KL, share of the gate mass lost) in each cell of a batch size, all cells in one pass."""
    from sim.quality.decode import CoSimulation
    from sim.quality.loop import Variant
    from sim.quality.measures import at_position
    from sim.quality.modelled_device import ModelledDevice
    from sim.quality.study import POLICY

    cells = [cell for cell in CELLS if cell.batch == batch]
    studies = [_study(cell, policy) for cell in cells]
    groups = EVALUATED // batch
    devices: list[ModelledDevice] = [
        ModelledDevice(one.template.spec, one.template.durations) for one in studies for _ in range(groups)
    ]
    rows = np.tile(frozen_text().tokens[:EVALUATED], (len(cells), 1))
    base, which = _untouched(), np.tile(np.arange(EVALUATED), len(cells))
    kl: list[NDArray[np.float32]] = []
    variants = [Variant(POLICY)] * len(devices)
    numbers = [*range(groups)] * len(cells)
    with CoSimulation(studies[0].loop, variants, numbers, members=batch, devices=devices) as run:
        for place in range(TOKENS):
            logits = run.step(rows[:, place : place + 1])[:, 0]
            if place + 1 < TOKENS:
                kl.append(at_position(base[which, place], logits, rows[:, place + 1])[:, KL])
            tell()
    sums = np.sum(kl, axis=0, dtype=np.float64).reshape(len(cells), EVALUATED)
    lost = np.array([np.sum([step.lost[0] for step in row.steps], axis=0) for row in run.rows])
    return [
        (_over_documents(one), float(shares[:, 0].sum() / shares[:, 1].sum()))
        for one, shares in zip(sums, lost.reshape(len(cells), groups, -1), strict=True)
    ]


def _over_documents(sums: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Mean per token of sums [windows], each window another document."""
    return estimate(np.stack([np.asarray(sums), np.full(EVALUATED, TOKENS - 1.0)], axis=1), ratio)


def _study(cell: Cell, policy: DictConfig) -> Study:
    """The policy in the model, on the machine of a cell. Raises: UserError where it cannot run in a model."""
    from policies.needs import Need
    from sim.assembly.build import read_device
    from sim.config import RunConfig
    from sim.quality.settings import QualityConfig, StudyConfig
    from sim.quality.study import check_before_loading, make_study

    config = cell.config(policy)
    config.cache.reset = "request"
    setup = read_device(config, RunConfig())
    settings = QualityConfig(windows=EVALUATED, tokens=TOKENS, fit_windows=LEARNED_FROM, mode="decode", contrasts=False)
    study = StudyConfig.windows_only(settings)
    check_before_loading(setup, study)
    recorded = _learned_from(Need.EXPERT_SIMILARITY in setup.policy.needs())
    return make_study(_model(), setup, study, frozen_text(), cell.model, recorded)
