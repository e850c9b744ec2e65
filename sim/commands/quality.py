"""Run a policy inside a real model's forward pass: what substitution costs in quality, and what it gains in time.

usage: python -m sim quality [OVERRIDES]

Closed loop: a replaced expert changes the hidden state and so every later routing decision. The rules decide with the
same compiled code as in `run`. Quality is MEASURED against the untouched model on held-out text; times are SIMULATED.

examples:
  python -m sim quality policy=cache_prior                        the demo model (trained on first use, ten minutes)
  python -m sim quality policy=importance policy/prefetch=none policy/prediction=none cache.fraction=0.25
  python -m sim quality policy=importance windows=4               prefetches: token by token, the clock in the loop
  python -m sim quality policy=cache_prior model=path/to/folder sizes=own
  python -m sim quality -m policy=cache_prior policy.substitution.bonus=0.1,0.2,0.4

overrides (default):
  policy=importance, policy/<part>=, policy.<part>.<knob>=, hardware=s1_rtx3080ti, cache.*, time.* as in `run`;
                             cache.reset=request here: every window finds the cache as at the start
  model=demo                 demo | demo_plain | a folder | a hub id, as in `record`; model.dtype, model.device
  prompts=builtin            held-out text of the Python library | FILE.txt | FILE.jsonl with "prompt" and "label"
  windows=24, tokens=256     windows of text that are evaluated; text_seed=0 chooses them
  fit_windows=16             further windows for rules that learn from other requests
  mode=auto                  parallel | decode; auto takes parallel where it decides the same, else decode
  weights=own                of substitutes | inherit
  contrasts=true             the same replacements with other weights, dropped, and at random
  per_layer=null             the policy in one layer at a time; null: in parallel mode
  cloze.items=24, cloze.choices=4, cloze.context_tokens=128, cloze.continuation_tokens=32
  generation.windows=8, generation.prompt_tokens=64, generation.new_tokens=32
  sizes=auto                 whose bytes the clock moves: a name of conf/model | own
  resume=true                finished windows of a killed evaluation are not run again
  seed=0                     of rules that draw, and of the demo model's training

Brackets are 95 % intervals of a paired bootstrap over documents. Results: quality.json, tokens.parquet (variants are
numbered as in provenance.json), provenance.json in the folder that is printed last.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sim.commands.record import _check_model, _load, _model_override
from sim.commands.run import remove_unused
from sim.paths import CONF
from traces.errors import UserError

if TYPE_CHECKING:
    from sim.quality.study import Study
    from traces.recording.loading import LoadedModel

GROUPS = ("cloze", "generation", "cache", "time", "policy", "hardware", "model")


def main(argv: list[str]) -> int:
    """Run the command with its overrides; ``-m`` may stand anywhere among them. Raises: UserError for bad input."""
    sweep = [word for word in argv if word in ("-m", "--multirun")]
    overrides = [word for given in argv if given not in sweep for word in _model_override(given)]
    if not any(override.startswith("model.allow_download=") for override in overrides):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when the library is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors to the caller instead of printing a traceback
    failures: list[UserError] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="quality")
    def run(config: DictConfig) -> None:
        try:
            evaluate_from(config)
        except UserError as error:
            remove_unused(Path(HydraConfig.get().runtime.output_dir))
            if HydraConfig.get().mode != RunMode.RUN:
                raise
            failures.append(error)  # raised past Hydra, which would print the overrides above the one sentence

    before = sys.argv
    sys.argv = ["python -m sim quality", *sweep[:1], *overrides]
    try:
        run()
    finally:
        sys.argv = before
    if failures:
        raise failures[0]
    return 0


def evaluate_from(config: DictConfig) -> None:
    """Evaluate what a composed configuration says, write the results and print the table."""
    from tqdm import tqdm

    from sim.assembly.build import plain
    from sim.quality.evaluate import run_study, total_tokens
    from sim.quality.metrics import quality_row
    from sim.quality.report import text, write_study
    from sim.quality.store import Store, model_digest

    study = study_from(config)
    whole = plain(config)
    facts = {name: value for name, value in whole.items() if name != "resume"}
    facts |= {"weights_sha256": model_digest(study.loop.model), "windows_sha256": study.windows.digest()}
    store = Store.named(facts) if study.settings.resume else Store(None)
    start = time.perf_counter()
    with tqdm(total=total_tokens(study), unit=" tokens", delay=2, disable=None, leave=False) as bar:
        results = run_study(study, store, bar.update)
    row = quality_row(study, results)
    folder = Path(HydraConfig.get().runtime.output_dir)
    write_study(folder, study, results, row, whole, time.perf_counter() - start)
    store.clear()
    print(text(study, row))
    print(f"results in {folder}")


def study_from(config: DictConfig) -> Study:
    """The evaluation that a configuration describes; what can be refused without the model is refused first."""
    from sim.assembly.build import make_policy, plain
    from sim.config import RunConfig, TimeConfig, checked
    from sim.machine.capacity import CacheConfig
    from sim.machine.hardware import hardware_from_config
    from sim.quality.settings import ClozeConfig, GenerationConfig, QualityConfig
    from sim.quality.study import DEMO_SIZES, check_before_loading, make_study

    for name in GROUPS:
        plain(config.get(name), name)
    values = {str(name): config[name] for name in config if name not in (*GROUPS, "seed")}
    settings = checked(QualityConfig, values)
    cloze = checked(ClozeConfig, plain(config.cloze), "cloze.")
    generation = checked(GenerationConfig, plain(config.generation), "generation.")
    cache, run = checked(CacheConfig, plain(config.cache), "cache."), checked(RunConfig, {"seed": config.seed})
    time_config, policy = checked(TimeConfig, plain(config.time), "time."), make_policy(config.policy)
    hardware = hardware_from_config(plain(config.hardware))
    check_before_loading(policy, cache, settings)
    cloze.check(settings.windows, settings.tokens)
    generation.check(settings.windows, settings.tokens)
    _check_model(config.model)
    loaded, statement = _load(config.model)
    _check_context(loaded, settings.tokens)
    default = DEMO_SIZES if config.model.recipe is not None else None
    study = make_study(
        loaded, policy, hardware, settings, cache, run, time_config, cloze, generation, default_sizes=default
    )
    if "statement" in statement:
        study.warnings.append(str(statement["statement"]))
    return study


def _check_context(loaded: LoadedModel, tokens: int) -> None:
    config: Any = loaded.model.config
    limit = getattr(config, "max_position_embeddings", None)
    if isinstance(limit, int) and tokens > limit:
        raise UserError(f"tokens={tokens}: this model's context is {limit} tokens")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
