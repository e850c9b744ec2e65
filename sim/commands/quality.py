"""Run a policy inside a real model's forward pass: what substitution costs in quality, and what it gains in time.

usage: python -m sim quality [OVERRIDES]

Closed loop: a replaced expert changes the hidden state and so every later routing decision. The rules decide with the
same compiled code as in `run`. Quality is MEASURED against the untouched model on held-out text; times are SIMULATED.

examples:
  python -m sim quality policy=cache_prior                        the demo model, which comes with the package
  python -m sim quality policy=importance policy/prefetch=none policy/prediction=none cache.fraction=0.25
  python -m sim quality policy=importance windows=4               prefetches: token by token, the clock in the loop
  python -m sim quality policy=cache_prior model=path/to/folder sizes=own
  python -m sim quality -m policy=cache_prior policy.substitution.bonus=0.1,0.2,0.4

overrides (default):
  policy=importance, policy/<part>=, policy.<part>.<knob>=, cache.*, time.* as in `run`;
  hardware=s1_rtx3080ti, runtime=smoe_2026_07   as in `run`
  cache.reset=request        here: every window finds the cache as at the start
  model=demo                 demo | demo_plain | a folder | a hub id, as in `record`; model.dtype, model.device
  prompts=builtin            held-out text of the Python library | FILE.txt | FILE.jsonl with "prompt" and "label"
  windows=24, tokens=256     windows of text that are evaluated; text_seed=0 chooses them
  batch_windows=8            windows, items, continuations and lines that run side by side; fewer take less memory
  fit_windows=16             further windows for rules that learn from other requests
  mode=auto                  parallel | decode; auto takes parallel where it decides the same, else decode
  step_tokens=1              positions that a step decodes: 1 + N prices policy=moe_spec (generation.windows=0,
                             lines.items=0) where N drafts are all accepted
  weights=own                of substitutes | inherit
  contrasts=true             the same replacements with other weights, dropped, and at random
  per_layer=null             the policy in one layer at a time; null: in parallel mode
  cloze.items=24, cloze.choices=4, cloze.context_tokens=128, cloze.continuation_tokens=32
  generation.windows=8, generation.prompt_tokens=64, generation.new_tokens=32
  lines.items=48             at most; lines of code, without the last lines.left=2 tokens, are written to their end: how
                             many exactly as the text, and as the untouched model; lines.prompt_tokens=64,
                             lines.new_tokens=12
  margin=0.01                "within": whether the whole interval of a change of perplexity (relative) or of a share
                             (points / 100) lies within it (yes), outside (no), or neither (undecided)
  contrast_margin=0.1        the same of the KL divergence of contrasts over the policy's, relative
  sizes=auto                 whose bytes the clock moves: a name of conf/model | own
  quick=false                true: a third of the windows, items, continuations and lines, intervals 1.7 times as wide
  resume=true                finished windows of a killed evaluation are not run again
  seed=0                     of rules that draw, and of the demo model's training

Time, MEASURED on 2 cores beside other programs, of which the demo model uses one: policy=importance lines.items=0
takes 146 s of processor time, with quick=true 72 s. The time left is told, without a terminal in a line a minute.
Brackets are 95 % intervals of a paired bootstrap over documents; fewer than six have none, "too few". Results:
quality.json, tokens.parquet (variants are numbered as in provenance.json), provenance.json in the folder printed last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sim.assembly.model_source import model_overrides, model_source, prepare_libraries
from sim.hydra_command import output_folder, run_hydra_command
from sim.terminal import next_commands
from traces.errors import UserError

if TYPE_CHECKING:
    from sim.quality.study import Study
    from traces.recording.loading import LoadedModel

GROUPS = ("cloze", "generation", "lines", "cache", "time", "policy", "hardware", "runtime", "model")


def main(argv: list[str]) -> int:
    """Run the command with its overrides -> exit code. Raises: UserError for bad input."""
    overrides = [word for given in argv for word in model_overrides(given)]
    prepare_libraries(overrides)
    return run_hydra_command("quality", overrides, partial(evaluate_from, typed=argv))


def evaluate_from(config: DictConfig, typed: Sequence[str] = ()) -> None:
    """Evaluate what a composed configuration says, write the results and print the table.

    ``typed``: the words of the command.
    """
    from sim.config import to_plain_dict
    from sim.quality.evaluate import run_study, total_tokens
    from sim.quality.metrics import quality_row
    from sim.quality.progress import progress
    from sim.quality.report import text, write_study
    from sim.quality.store import Store, model_digest
    from sim.quality.threads import fitting_threads
    from sim.sweep.key import by_content

    study = study_from(config)
    whole = to_plain_dict(config)
    facts = by_content({name: value for name, value in whole.items() if name != "resume"})
    facts |= {"weights_sha256": model_digest(study.loop.model), "windows_sha256": study.windows.digest()}
    store = Store.named(facts) if study.config.quality.resume else Store(None)
    start = time.perf_counter()
    with progress("quality", total_tokens(study), " tokens") as bar, fitting_threads(study.loop.model):
        results = run_study(study, store, bar.update)
    row = quality_row(study, results)
    folder = output_folder()
    write_study(folder, study, results, row, whole, time.perf_counter() - start)
    store.clear()
    print(text(study, row))
    print(f"results in {folder}")
    timed = ("policy", "cache", "hardware", "runtime")
    print(next_commands(["run", *(word for word in typed if word.lstrip("+").startswith(timed))]))


def study_from(config: DictConfig) -> Study:
    """The evaluation that a configuration describes; what can be refused without the model is refused first."""
    from sim.assembly.build import read_device
    from sim.assembly.replay import Notes
    from sim.assembly.trial import try_on_embedded
    from sim.config import RunConfig, to_plain_dict, validate
    from sim.quality.settings import ClozeConfig, GenerationConfig, LinesConfig, QualityConfig, StudyConfig, quickened
    from sim.quality.study import DEMO_SIZES, check_before_loading, make_study

    for name in GROUPS:
        to_plain_dict(config.get(name), name)
    values = {str(name): config[name] for name in config if name not in (*GROUPS, "seed")}
    measured = StudyConfig(
        validate(QualityConfig, values),
        validate(ClozeConfig, to_plain_dict(config.cloze), "cloze."),
        validate(GenerationConfig, to_plain_dict(config.generation), "generation."),
        validate(LinesConfig, to_plain_dict(config.lines), "lines."),
    )
    measured, sentence = quickened(measured)
    setup = read_device(config, validate(RunConfig, {"seed": config.seed}))
    check_before_loading(setup, measured)
    try_on_embedded(setup)
    source = model_source(config.model)
    source.check()
    loaded, statement = source.load()
    _check_context(loaded, measured.quality.tokens)
    default_sizes = DEMO_SIZES if source.recipe is not None else None
    study = make_study(loaded, setup, measured, default_sizes=default_sizes)
    said = [str(statement[name]) for name in ("statement", "rounding") if name in statement]
    origin = Notes(warnings=(*sentence, *said))
    return replace(study, notes=study.notes + origin)


def _check_context(loaded: LoadedModel, tokens: int) -> None:
    config: Any = loaded.model.config
    limit = getattr(config, "max_position_embeddings", None)
    if isinstance(limit, int) and tokens > limit:
        raise UserError(f"tokens={tokens}: this model's context is {limit} tokens")
