"""Record the expert routing of a real MoE model over prompts into a trace file.

usage: python -m sim record [OVERRIDES]

Runs a Hugging Face MoE model over prompts and writes which experts every token used in every layer, with the gate's
scores: what `python -m sim run trace.path=FILE` replays. Multimodal models are run over text. Quantised checkpoints
need an extra (`quantised`: MXFP4, FP8, compressed-tensors; `gptq`: AWQ, GPTQ); sizes are those of the files. Scores
are stored where a known function of them gives the recorded ids and weights; what is left out is said.

examples:
  python -m sim record                                       the demo model, which comes with the package
  python -m sim record model=path/to/folder                  a model written by save_pretrained
  python -m sim record model=allenai/OLMoE-1B-7B-0924 model.allow_download=true
  python -m sim record prompts=questions.txt out=mine.safetensors
  python -m sim record mode=teacher_forced prompt_tokens=256
  python -m sim record similarity=true                       for rules that choose substitutes by similarity

overrides (default):
  model=demo                 demo | demo_plain (untuned contrast) | a folder | a hub id
  model.dtype=auto           auto (as stored) | float32 | bfloat16 | float16; the demo models are float32
  model.device=cpu           cpu | cuda | cuda:<number> | auto: a GPU where torch sees one
  model.device_map=null      auto: spread over GPUs, memory and disk (extra `large`); model.device is then not read
  model.trust_remote_code=false  true: Python files that a model brings along are run, with all your rights
  model.train=false          true: train the demo model here, though the package has it (some 12 minutes of a core)
  model.allow_download=false  true fetches a hub id from the network; otherwise only the local cache is read
  prompts=builtin            held-out prose and code of the Python library | FILE.txt, one prompt per line |
                             FILE.jsonl, one {"prompt": ..., "label": optional} per line, or {"messages": [{"role":
                             ..., "content": ...}, ...]}: a dialogue in the tokenizer's chat template, one request of
                             prefill and decode turn by turn; answers it holds are decoded as given, the last is written
  requests=null              the first n prompts; null: all of a file, 24 of the built-in text
  prompt_tokens=128          longer prompts are cut, which is said; null: whole; dialogues are never cut
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
  out=null                   trace file, relative to this folder; null: outputs/record/<date>/<time>/trace.safetensors;
                             - is the standard output

Trained demo models are kept in the user's cache folder; the environment variable MOE_SIM_CACHE names another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sim.assembly.model_source import model_overrides, model_source, prepare_libraries
from sim.config import to_plain_dict, validate
from sim.hydra_command import output_folder, run_hydra_command
from sim.ranges import Count, check_ranges
from sim.terminal import next_commands
from traces.errors import UserError

if TYPE_CHECKING:
    from traces.recording.recorder import RecordOptions

OTHER_KEYS = ("model", "prompts", "requests", "sampling", "lookahead", "out")
"""Of the configuration, beside the options of a recording."""


def main(argv: list[str]) -> int:
    """Run the command with its overrides -> exit code. Raises: UserError for bad input."""
    overrides = [word for given in argv for word in model_overrides(given)]
    prepare_libraries(overrides)
    return run_hydra_command("record", overrides, record_from)


def record_from(config: DictConfig) -> None:
    """Record what a composed configuration says, write the trace and print what it holds."""
    from traces.format.files import write_trace
    from traces.recording.prompts import read_prompts
    from traces.recording.recorder import record
    from traces.whole_file import check_place, printing_beside

    options = _options(config)
    source = model_source(config.model)
    source.check()
    values = to_plain_dict(config)
    asked = validate(Asked, {name: values[name] for name in ("prompts", "requests", "out") if name in values})
    out = _out_file(asked.out)
    check_place(out)
    prompts = read_prompts(asked.prompts, asked.requests, options.seed, options.prompt_tokens)
    with printing_beside(out):
        loaded, statement = source.load()
        trace = record(loaded, prompts, options, {"prompts": asked.prompts, **statement})
        trace = write_trace(out, trace)
        print(_summary(out, trace))
        if out.is_file():
            sweep = ["run", "-m", f"trace.path={out}", "policy=lru,importance", "cache.fraction=0.125,0.25,0.5"]
            print(next_commands(["info", out], sweep))
    if "stopped" in trace.provenance:
        raise UserError(f"{trace.provenance['stopped']}; the prompts before it are in {out}")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which prompts, and where the trace goes."""

    prompts: str
    requests: Count | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The `sampling` group."""

    temperature: float


@dataclass(frozen=True, slots=True)
class Lookahead:
    """The `lookahead` group."""

    enabled: bool
    extra: int | None


def _options(config: DictConfig) -> RecordOptions:
    from traces.recording.recorder import RecordOptions

    sampling = validate(Sampling, to_plain_dict(config.sampling, "sampling"), "sampling.")
    lookahead = validate(Lookahead, to_plain_dict(config.lookahead, "lookahead"), "lookahead.")
    values = {name: value for name, value in to_plain_dict(config).items() if name not in OTHER_KEYS}
    options = validate(RecordOptions, values)
    return replace(
        options, temperature=sampling.temperature, lookahead=lookahead.enabled, lookahead_extra=lookahead.extra
    )


def _out_file(out: str | None) -> Path:
    if out is not None:
        path = Path(out).expanduser()
        return path / "trace.safetensors" if path.is_dir() else path
    return output_folder() / "trace.safetensors"


def _summary(out: Path, trace: Any) -> str:
    decode = int(trace.phase.sum())
    lines = [
        f"{out}  {out.stat().st_size:,} bytes" if out.is_file() else str(out),
        f"{trace.num_requests} requests, {trace.num_tokens:,} tokens ({trace.num_tokens - decode:,} prefill, "
        f"{decode:,} decode), {trace.num_layers} MoE layers, top-{trace.top_k} of {trace.num_experts} experts",
    ]
    if "statement" in trace.provenance:
        lines.append(f"note: {trace.provenance['statement']}")
    lines += [f"note: {note}" for note in trace.provenance.get("notes", [])]
    if cut := trace.provenance.get("prompts_cut"):
        lines.append(
            f"note: {cut['prompts']} of {trace.num_requests} prompts were cut to prompt_tokens="
            f"{trace.provenance['prompt_tokens_limit']}; the longest had {cut['longest']} (prompt_tokens=null: whole)"
        )
    for name, value in trace.provenance.items():
        if isinstance(value, str) and value.startswith("absent: "):
            lines.append(f"note: no {name}: {value.removeprefix('absent: ')}")
    if known := trace.provenance.get("known_ahead_layers"):
        lines.append(
            f"note: the experts of MoE layers {', '.join(map(str, known))} follow from the token alone (hashed)"
        )
    if trace.fewer:
        lines.append(f"note: tokens use up to {trace.top_k} experts of a layer, some of them fewer")
    return "\n".join(lines)
