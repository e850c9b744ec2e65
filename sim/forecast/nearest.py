"""Published rows that are most like a plan, each beside what is predicted of it without its machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.forecast.predict import model_key
from sim.validation.published.corpus.parts import SHIPPED, Rates, rates_of
from sim.validation.published.corpus.placement import CPU_EXPERTS, CPU_ONLY
from sim.validation.published.corpus.rule import Setting
from sim.validation.published.corpus.sizes import shipped_models
from sim.validation.published.corpus.tables import Corpus, number_of, read_corpus, read_csv

ROWS = "rows.csv"
SHOWN = 3
MOST_CHARACTERS = 40
"""Of an author's words for the placement."""
OTHER_KIND, OTHER_RUNTIME, OTHER_MODEL = 4.0, 2.0, 0.7
"""How far apart rows are that differ in that; rates count by their logarithms."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """A published row: what it ran, tokens per second as measured and as predicted without its machine."""

    row: str
    what: str
    measured: float
    predicted: float | None
    source: str
    same_gpu: bool
    same_model: bool


def nearest_rows(setting: Setting, count: int = SHOWN) -> list[Nearest]:
    """The rows of the corpus that are most like a setting, one of each machine."""
    corpus = read_corpus(SHIPPED)
    columns = ("row", "model", "placement", "runtime", "rates_known", "measured", "without_a_row")
    full = read_csv(SHIPPED / ROWS, columns)
    by_name = {row.row_id: row for row in corpus.rows}
    rates = {row.machine_id: rates_of(corpus.machines[row.machine_id]) for row in by_name.values()}
    found: dict[str, tuple[float, Nearest]] = {}
    for cells in full:
        row = by_name.get(cells["row"])
        if row is None or cells["rates_known"] != "True":
            continue
        far = _distance(setting, cells, rates[row.machine_id])
        if row.machine_id not in found or far < found[row.machine_id][0]:
            found[row.machine_id] = (far, _nearest(setting, cells, rates[row.machine_id], corpus))
    return [near for _, near in sorted(found.values(), key=lambda pair: pair[0])[:count]]


def _distance(setting: Setting, cells: dict[str, str], rates: Rates) -> float:
    far = OTHER_KIND * (cells["placement"] != setting.placement.kind)
    far += OTHER_RUNTIME * (cells["runtime"] != setting.runtime)
    far += OTHER_MODEL * (not _same_model(setting, cells))
    pairs = [(setting.rates.gpu_bytes_per_s, rates.gpu_bytes_per_s)]
    if setting.placement.kind in (CPU_EXPERTS, CPU_ONLY):
        pairs.append((setting.rates.ram_bytes_per_s, rates.ram_bytes_per_s))
    for mine, other in pairs:
        far += abs(math.log(mine / other)) if mine and other else 1.0
    return far


def _same_model(setting: Setting, cells: dict[str, str]) -> bool:
    """Whatever it is called, and in whatever bits."""
    named = next((known for known in shipped_models() if known.name == cells["model"]), None)
    return named is not None and model_key(named.dimensions)[:-1] == model_key(setting.model)[:-1]


def _nearest(setting: Setting, cells: dict[str, str], rates: Rates, corpus: Corpus) -> Nearest:
    row = next(row for row in corpus.rows if row.row_id == cells["row"])
    gpu = corpus.machines[row.machine_id].gpu or corpus.machines[row.machine_id].cpu or row.machine_id
    value = " ".join((row.placement_value or row.flags).split())[:MOST_CHARACTERS]
    machine = f"{gpu.split('(')[0].strip()}, {row.runtime}"
    what = f"{row.model} {row.quantisation}; {machine}; {cells['placement']} ({value})"
    measured, predicted = float(cells["measured"]), number_of(cells["without_a_row"])
    same_gpu = rates.gpu is not None and setting.rates.gpu is not None and rates.gpu.part == setting.rates.gpu.part
    return Nearest(row.row_id, what, measured, predicted, row.source, same_gpu, _same_model(setting, cells))
