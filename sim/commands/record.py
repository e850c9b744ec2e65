"""Record the expert routing of a real MoE model over prompts into a trace file.

usage: python -m sim record [OVERRIDES]

Runs a Hugging Face MoE model over prompts and writes which experts every token used in every layer, with the gate's
scores: what `python -m sim run trace.path=FILE` replays.

examples:
  python -m sim record                                       the demo model (trained on first use, about ten minutes)
  python -m sim record model=path/to/folder                  a model written by save_pretrained
  python -m sim record model=allenai/OLMoE-1B-7B-0924 model.allow_download=true
  python -m sim record prompts=questions.txt out=mine.safetensors
  python -m sim record mode=teacher_forced prompt_tokens=256
  python -m sim record similarity=true                       for rules that choose substitutes by similarity

overrides (default):
  model=demo                 demo | demo_plain (untuned contrast) | a folder | a hub id
  model.dtype=auto           auto (as stored) | float32 | bfloat16 | float16; the demo models are float32
  model.device=cpu           cpu | cuda
  model.allow_download=false true fetches a hub id from the network; otherwise only the local cache is read
  prompts=builtin            held-out prose and code of the Python library | FILE.txt, one prompt per line |
                             FILE.jsonl, one {"prompt": ..., "label": optional} per line
  requests=null              the first n prompts; null: all of a file, 24 of the built-in text
  prompt_tokens=128          longer prompts are cut; null: whole
  mode=generate              prefill, then decode through the KV cache | teacher_forced: one pass over the prompt
  max_new_tokens=128         generated per request; the last is never fed back, so decode has one row fewer
  ignore_eos=false           true: go on after the model's end-of-text token
  sampling.temperature=0     0: greedy; above: sampled by seed
  lookahead.enabled=true     also apply the next layer's gate early, before and after each layer's experts
  lookahead.extra=16         experts kept beyond top-k in those tables; null: all
  similarity=false           true: also measure how alike the experts of a layer are: run all of them on a sample
  similarity_tokens=512      of so many recorded tokens
  half_precision=true        scores and weights as float16; false: float32
  seed=0                     of built-in prompts, of sampling, and of the demo model's training
  out=null                   trace file, relative to this folder; null: outputs/record/<date>/<time>/trace.safetensors

Trained demo models are kept in the user's cache folder; the environment variable MOE_SIM_CACHE names another.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sim.paths import CONF
from traces.errors import UserError

if TYPE_CHECKING:
    from traces.recording.loading import LoadedModel
    from traces.recording.recorder import RecordOptions


def main(argv: list[str]) -> int:
    """Run the command with its overrides; returns the exit code. Raises: UserError for bad input."""
    if any(argument in ("-h", "--help") for argument in argv):
        print((__doc__ or "").strip())
        return 0
    overrides = [argument for given in argv for argument in _model_override(given)]
    if not any(override.startswith("model.allow_download=") for override in overrides):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when the library is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors to the caller instead of printing a traceback
    failures: list[UserError] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="record")
    def run(config: DictConfig) -> None:
        try:
            record_from(config)
        except UserError as error:
            if HydraConfig.get().mode != RunMode.RUN:
                raise
            failures.append(error)  # raised past Hydra, which would print the overrides above the one sentence

    before = sys.argv
    sys.argv = ["python -m sim record", *overrides]
    try:
        run()
    finally:
        sys.argv = before
    if failures:
        raise failures[0]
    return 0


def _model_override(argument: str) -> list[str]:
    """`model=<folder or hub id>` is short for `model=huggingface model.path=<it>`; anything else stays as it is."""
    name, _, value = argument.partition("=")
    if name != "model" or not value or "," in value or (CONF / "model" / f"{value}.yaml").is_file():
        return [argument]
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return ["model=huggingface", f"model.path='{quoted}'"]


def record_from(config: DictConfig) -> None:
    """Record what a composed configuration says, write the trace and print what it holds."""
    from traces.format.files import write_trace
    from traces.recording.prompts import read_prompts
    from traces.recording.recorder import record

    options = _options(config)
    options.check()
    _check_model(config.model)
    prompts = read_prompts(str(config.prompts), config.requests, options.seed, options.prompt_tokens)
    out = _out_file(config.out)
    loaded, statement = _load(config.model)
    trace = record(loaded, prompts, options, {"prompts": str(config.prompts), **statement})
    trace = write_trace(out, trace)
    print(_summary(out, trace))


def _options(config: DictConfig) -> RecordOptions:
    from traces.recording.recorder import RecordOptions

    return RecordOptions(
        mode=str(config.mode),
        max_new_tokens=_whole("max_new_tokens", config.max_new_tokens),
        prompt_tokens=None if config.prompt_tokens is None else _whole("prompt_tokens", config.prompt_tokens),
        temperature=_number("sampling.temperature", config.sampling.temperature),
        ignore_eos=bool(config.ignore_eos),
        lookahead=bool(config.lookahead.enabled),
        lookahead_extra=None if config.lookahead.extra is None else _whole("lookahead.extra", config.lookahead.extra),
        half_precision=bool(config.half_precision),
        similarity=_switch("similarity", config.similarity),
        similarity_tokens=_whole("similarity_tokens", config.similarity_tokens),
        seed=_whole("seed", config.seed),
    )


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{name}={value}: a whole number is needed.")
    return value


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{name}={value}: true or false is needed.")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name}={value}: a number is needed.")
    return float(value)


def _out_file(out: str | None) -> Path:
    if out is not None:
        path = Path(out).expanduser()
        return path / "trace.safetensors" if path.is_dir() else path
    return Path(HydraConfig.get().runtime.output_dir) / "trace.safetensors"


def _check_model(model: DictConfig) -> None:
    """Refuse, before anything slow is done, a model that cannot be there."""
    from traces.demo.recipe import named_recipe
    from traces.recording.loading import check_dtype, check_source

    if "recipe" not in model:
        raise UserError(
            f"model={model.get('name', '?')} only states sizes; record takes demo, demo_plain, a folder or a hub id."
        )
    check_dtype(str(model.dtype))
    if model.recipe is not None:
        named_recipe(str(model.recipe), _whole("model.seed", model.seed))
        return
    if OmegaConf.is_missing(model, "path") or not model.path:
        raise UserError("model.path is not set: model=huggingface needs a folder or a hub id.")
    timeout_s = _number("model.network_timeout_s", model.network_timeout_s)
    check_source(str(model.path), bool(model.allow_download), timeout_s)


def _load(model: DictConfig) -> tuple[LoadedModel, dict[str, Any]]:
    """The model to record, and what its provenance must say beyond what the recorder knows."""
    from traces.recording.loading import LoadedModel, load_model

    if model.recipe is None:
        allowed, timeout_s = bool(model.allow_download), float(model.network_timeout_s)
        return load_model(str(model.path), str(model.dtype), str(model.device), allowed, timeout_s), {}
    from traces.demo.cache import demo_model, training_summary
    from traces.demo.recipe import named_recipe

    recipe = named_recipe(str(model.recipe), _whole("model.seed", model.seed))
    folder = demo_model(recipe)
    loaded = load_model(str(folder), str(model.dtype), str(model.device))
    statement = {
        "recipe": recipe.name,
        "training_seed": recipe.seed,
        "training_corpus_sha256": training_summary(folder)["corpus_sha256"],
        "statement": recipe.statement,
    }
    return LoadedModel(loaded.model, loaded.tokenizer, recipe.name), statement


def _summary(out: Path, trace: Any) -> str:
    decode = int(trace.phase.sum())
    lines = [
        f"{out}  {out.stat().st_size:,} bytes",
        f"{trace.num_requests} requests, {trace.num_tokens:,} tokens ({trace.num_tokens - decode:,} prefill, "
        f"{decode:,} decode), {trace.num_layers} MoE layers, top-{trace.top_k} of {trace.num_experts} experts",
    ]
    if "statement" in trace.provenance:
        lines.append(f"note: {trace.provenance['statement']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
