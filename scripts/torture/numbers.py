"""Runs of drawn compositions of rules, engines, caches and batches: every number must be what its name says."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import OmegaConf

from scripts.torture.claims import contradictions, contradictory_tables
from scripts.torture.configuration import composed
from scripts.torture.inputs import small_trace
from scripts.torture.tally import Tally
from sim.assembly.build import PARTS
from sim.assembly.catalogue import rule_names
from sim.paths import CONF, yaml_names
from sim.results.json_files import read_json
from sim.run.execute import execute
from traces.errors import UserError
from traces.format.files import write_trace

CHOICES: dict[str, tuple[object, ...]] = {
    "cache.fraction": (0.25, 0.5, 1.0),
    "cache.scope": ("layer", "layer", "global"),
    "cache.semantics": ("step", "step", "sequential"),
    "cache.overflow": ("stream", "stream", "hold"),
    "cache.start": ("cold", "warm"),
    "cache.reset": ("never", "request", "all"),
    "policy.write_back": ("none", "serial", "overlap"),
    "runtime.memory": ("pinned", "pageable", "staged"),
    "time.link": (True, False),
    "batch_size": (1, 2, 3),
    "prefill_chunk": (None, 1, 2),
    "timeline": (False, False, True),
}
"""Knobs that are drawn, each by itself."""


def drawn_runs(count: int, seed: int) -> Tally:
    """As many runs, drawn; a combination that means nothing is refused and counted."""
    tally, rng = Tally("numbers of drawn compositions"), random.Random(f"{seed} numbers")
    with TemporaryDirectory() as work:
        path = Path(work) / "t.safetensors"
        write_trace(path, small_trace(seed, requests=6))
        for number in range(count):
            words = draw(rng)
            tally.trials += 1
            try:
                wrong = run(words, path, rng, Path(work) / str(number))
                tally.outcomes["ran"] += 1
            except UserError:
                tally.outcomes["refused"] += 1
                continue
            except Exception as error:
                tally.outcomes["failed"] += 1
                wrong = [f"{type(error).__name__}: {error}"]
            for one in wrong:
                tally.defects[f"{' '.join(words)}: {one[:200]}"] += 1
    return tally


def draw(rng: random.Random) -> tuple[str, ...]:
    """A named policy with some of its parts exchanged, an engine, a machine."""
    policy = rng.choice(yaml_names(CONF / "policy"))
    engine = rng.choice(yaml_names(CONF / "engine"))
    words = [f"policy={policy}", f"engine={engine}", f"hardware={rng.choice(yaml_names(CONF / 'hardware'))}"]
    parts = rng.sample([*PARTS], rng.choice((0, 1, 2)))
    return (*words, *(f"policy/{part}={rng.choice(rule_names(part))}" for part in parts))


def run(words: tuple[str, ...], trace: Path, rng: random.Random, out: Path) -> list[str]:
    """What is wrong with the numbers of one run."""
    config = composed("config", words).copy()
    OmegaConf.update(config, "trace.path", str(trace))
    for knob in rng.sample([*CHOICES], 4):
        OmegaConf.update(config, knob, rng.choice(CHOICES[knob]))
    execute(config, out)
    return [*contradictions(read_json(out / "metrics.json")), *contradictory_tables(out)]
