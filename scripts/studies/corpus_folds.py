"""Prints errors of the published speeds with more than a machine held out: python -m scripts.studies.corpus_folds

The corpus holds out a family: a machine, with those that one author names beside the same GPU or CPU. Here an author's
machines are held out together, or the families are dealt into five folds, each predicted by the other four.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from scripts.command_line import parser_of, run
from sim.validation.published.corpus.held_out import STAGES, Prediction, families, predict_all
from sim.validation.published.corpus.parts import SHIPPED
from sim.validation.published.corpus.predict import STAGE_NAMES, coverage_of, settings_of
from sim.validation.published.corpus.rule import Setting
from sim.validation.published.corpus.tables import read_corpus

FOLDS, DEALS = 5, 5


def authors(settings: Sequence[Setting]) -> dict[str, str]:
    """Author of each machine: the owner of a repository, or the site of a page."""
    return {
        setting.row.machine_id: re.split(r"[/#\s;]", setting.row.source.lower().removeprefix("https://"))[0]
        for setting in settings
    }


def folds(seed: int) -> Callable[[Sequence[Setting]], dict[str, str]]:
    """Families dealt into folds of nearly equal size."""

    def dealt(settings: Sequence[Setting]) -> dict[str, str]:
        family = families(settings)
        names = sorted(set(family.values()))
        fold = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % FOLDS, strict=True))
        return {machine: f"fold {fold[name]}" for machine, name in family.items()}

    return dealt


def line(name: str, predictions: Sequence[Prediction], stage: int) -> str:
    """Errors and coverage of a stage."""
    chosen = [prediction for prediction in predictions if prediction.counts(stage)]
    sizes = 100 * np.abs(np.expm1([prediction.log_error(stage) for prediction in chosen]))
    inside = coverage_of(chosen, stage)
    assert inside is not None
    return (
        f"{name:<24}{STAGE_NAMES[stage]:<18}{len(chosen):>4} rows  median {np.median(sizes):5.1f} %  within 40 % "
        f"{100 * np.mean(sizes <= 40):5.1f} %  worst {sizes.max():6.1f} %  inside their interval {100 * inside:5.1f} %"
    )


def main(argv: list[str]) -> None:
    """Print a line per way of holding out and stage."""
    parser_of(__doc__).parse_args(argv)
    settings, _ = settings_of(read_corpus(SHIPPED))
    ways = {"a family": families, "an author": authors} | {f"a fifth, deal {at + 1}": folds(at) for at in range(DEALS)}
    for name, together in ways.items():
        predictions = predict_all(settings, settings, together)
        for stage in STAGES:
            print(line(name, predictions, stage))


if __name__ == "__main__":
    run(main)
