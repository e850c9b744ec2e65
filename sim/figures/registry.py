"""Every figure by name: where its table comes from, and the function from that table to a matplotlib figure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from sim.figures.alpha import alpha
from sim.figures.attribution import attribution
from sim.figures.bounds import what_if
from sim.figures.capacity import capacity, hit_rates
from sim.figures.chain import chain
from sim.figures.evictions import evictions
from sim.figures.gate import reuse, reuse_by_rank, score_by_rank, scores_by_rank
from sim.figures.knob import knob
from sim.figures.missing import MissingData
from sim.figures.pareto import pareto
from sim.figures.prefetches import prefetch_accuracy
from sim.figures.routing import expert_shares, locality, locality_by_layer, routing
from sim.figures.setups import cache_ratio_by_policy, tpot_by_policy
from sim.figures.style import STYLE
from sim.figures.supply import link_and_cpu, link_time
from sim.figures.table import study
from sim.figures.timeline import steps_of_a_run
from sim.figures.traces import is_trace
from sim.figures.validation import FILE as VALIDATION_FILE
from sim.figures.validation import read_validation, validation
from traces.errors import UserError

RUNS, TRACE, VALIDATION = "runs", "a trace", "a validation"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure: what it is drawn from (`source`), how its table is made of that, how it is drawn."""

    source: str
    says: str
    read: Callable[[Path], pd.DataFrame]
    draw: Callable[..., Figure]


FIGURES: dict[str, Drawing] = {
    "capacity": Drawing(RUNS, "hit rate and TPOT against cache capacity, a line per policy", study, capacity),
    "hit_rates": Drawing(RUNS, "decode hit rate against capacity beside Belady and its variants", study, hit_rates),
    "attribution": Drawing(RUNS, "where a token's time goes, a stacked bar per policy", study, attribution),
    "tpot_by_policy": Drawing(RUNS, "TPOT by policy, workload, set-up, batch (SMoE, Fig. 12)", study, tpot_by_policy),
    "cache_ratio_by_policy": Drawing(
        RUNS, "cache ratio in the same arrangement (SMoE, Fig. 13)", study, cache_ratio_by_policy
    ),
    "alpha": Drawing(RUNS, "TPOT and lost gate mass against alpha (SMoE, Fig. 11)", study, alpha),
    "knob": Drawing(RUNS, "TPOT and hit rate against the number that was swept: link, batch, ...", study, knob),
    "chain": Drawing(RUNS, "parts added to LRU offloading one by one (SMoE, Fig. 17)", study, chain),
    "evictions": Drawing(RUNS, "eviction rules, all else equal (SMoE, Fig. 19)", study, evictions),
    "prefetch_accuracy": Drawing(RUNS, "what became of prefetches (SMoE, Fig. 21)", study, prefetch_accuracy),
    "link_time": Drawing(RUNS, "time on the link beside TPOT (SMoE, Fig. 20)", study, link_time),
    "link_and_cpu": Drawing(RUNS, "how busy link and CPU are, and waits for them (SMoE, Fig. 22)", study, link_and_cpu),
    "pareto": Drawing(RUNS, "TPOT against cost in quality: lost gate mass, or perplexity", study, pareto),
    "what_if": Drawing(RUNS, "what each run would gain if one thing were ideal", study, what_if),
    "timeline": Drawing(RUNS, "what GPU, link and CPU did in a few steps of a run", study, steps_of_a_run),
    "score_by_rank": Drawing(TRACE, "gate score by rank (SMoE, Fig. 5)", scores_by_rank, score_by_rank),
    "reuse_by_rank": Drawing(TRACE, "reuse within 1 to 3 steps by rank (SMoE, Fig. 7)", reuse_by_rank, reuse),
    "routing": Drawing(TRACE, "heat map of the use of every expert", expert_shares, routing),
    "locality": Drawing(TRACE, "LRU hits at every capacity, evenness by layer", locality_by_layer, locality),
    "validation": Drawing(VALIDATION, "predicted beside measured times", read_validation, validation),
}


def sources_of(path: Path) -> tuple[str, ...]:
    """What a path holds that figures can be drawn from: runs, a trace, a validation."""
    if is_trace(path):
        return (TRACE,)
    if path.is_file():
        return (VALIDATION,)
    found = [(RUNS, "metrics.json"), (VALIDATION, VALIDATION_FILE)]
    return tuple(source for source, name in found if path.is_dir() and next(path.rglob(name), None) is not None)


def figures_of(
    path: Path,
    names: Sequence[str],
    columns: int,
    steps: tuple[int, int] | None = None,
    runs: pd.DataFrame | None = None,
) -> Iterator[tuple[str, Figure]]:
    """The figures of these names, or without names all that `path` gives, one after the other.

    `steps`: for the timeline, the first and the last step to show. `runs`: the table of `study`, where it is known.

    Raises: MissingData where a named figure lacks
    what it shows, or `path` holds nothing to draw.
    """
    tables: dict[Any, pd.DataFrame] = {} if runs is None else {study: runs}
    sources = sources_of(path)
    if not sources:
        raise MissingData(
            f"{path} holds no results: neither runs (python -m sim run) nor a trace (python -m sim record) "
            f"nor a {VALIDATION_FILE} (python -m sim validate)"
        )
    for name in names or [name for name, drawing in FIGURES.items() if drawing.source in sources]:
        drawing = FIGURES[name]
        if names and drawing.source not in sources:
            raise MissingData(_wrong_source(name, drawing, path))
        try:
            if drawing.read not in tables:
                tables[drawing.read] = drawing.read(path)
            more = {"steps": steps} if name == "timeline" else {}
            with rc_context(STYLE):
                figure = drawing.draw(tables[drawing.read], columns, **more)
        except MissingData:
            if names:
                raise
            continue
        yield name, figure


def _wrong_source(name: str, drawing: Drawing, path: Path) -> str:
    how = {
        RUNS: "the output folder of python -m sim run",
        TRACE: "a trace file, as python -m sim record writes it, or demo",
        VALIDATION: f"a folder with {VALIDATION_FILE}, as python -m sim validate writes it",
    }
    return f"figure={name} is drawn from {drawing.source}, and {path} holds none: name {how[drawing.source]}"


def save(figure: Figure, stem: Path, dpi: int = 300) -> list[Path]:
    """Write a figure as `stem`.pdf and `stem`.png, the same bytes for the same figure: no time in either."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = stem.with_suffix(".pdf"), stem.with_suffix(".png")
    with rc_context(STYLE):
        figure.savefig(pdf, metadata={"CreationDate": None})
        figure.savefig(png, dpi=dpi)
    return [pdf, png]


def check_name(name: str) -> None:
    """Raises: UserError for a figure that does not exist, naming those that do."""
    if name not in FIGURES:
        raise UserError(f"figure={name} is not known: choose from {', '.join(FIGURES)}")
