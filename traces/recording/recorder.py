"""Runs a real MoE model over prompts and records its routing: prefill and decode through the KV cache, or one pass.

The model runs unchanged, one request at a time; a `Tap` reads every routing decision, a `Collector` keeps it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL, Geometry, Trace
from traces.recording.adapted import left_out
from traces.recording.collected import Collector
from traces.recording.loading import LoadedModel
from traces.recording.measured_geometry import measure_geometry
from traces.recording.moe_layers import family_name
from traces.recording.moe_probe import input_device
from traces.recording.prompts import Prompt
from traces.recording.requests import Request, findings, plan_requests
from traces.recording.similarity import SimilaritySample
from traces.recording.stored_sizes import as_stored

if TYPE_CHECKING:
    import torch

MODES = ("generate", "teacher_forced")


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record.

    `mode`: "generate" (prefill, then decode with the KV cache) or "teacher_forced" (one pass over the prompt, all rows
    prefill). `max_new_tokens`: tokens generated per request; the last is never fed back, so decode has one row fewer.
    `prompt_tokens`: longer prompts are cut (None: whole). `temperature`: 0 takes the likeliest token (greedy), above it
    tokens are sampled from (seed, request). `lookahead_extra`: experts beyond top-k in lookahead tables, None: all.
    `similarity`: also measure how alike experts are, on `similarity_tokens` of the recorded tokens.
    """

    mode: str = "generate"
    max_new_tokens: int = 128
    prompt_tokens: int | None = 128
    temperature: float = 0.0
    ignore_eos: bool = False
    lookahead: bool = True
    lookahead_extra: int | None = 16
    half_precision: bool = True
    similarity: bool = False
    similarity_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: UserError for a value outside its range."""
        if self.mode not in MODES:
            raise UserError(f"mode={self.mode}: must be {' or '.join(MODES)}")
        if self.mode == "generate" and self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if self.prompt_tokens is not None and self.prompt_tokens < 1:
            raise UserError(f"prompt_tokens={self.prompt_tokens}: must be at least 1, or null for the whole prompt")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"sampling.temperature={self.temperature}: must be zero (greedy) or more")
        if self.lookahead_extra is not None and self.lookahead_extra < 1:
            raise UserError(f"lookahead.extra={self.lookahead_extra}: must be at least 1, or null to keep every expert")
        if self.similarity_tokens < 1:
            raise UserError(f"similarity_tokens={self.similarity_tokens}: must be at least 1")


def record(
    loaded: LoadedModel,
    prompts: tuple[Prompt, ...],
    options: RecordOptions,
    provenance: dict[str, Any] | None = None,
    progress: bool = True,
) -> Trace:
    """Run `loaded` over `prompts` and return the trace; nothing is written to disk.

    A model that fails after its first prompt costs the prompts from there on: the trace holds those before, and its
    provenance says what stopped it (`stopped`).

    Raises:
        UserError: a model that cannot be hooked or fails in the first prompt, a prompt without tokens or beyond the
            context.
    """
    import torch

    sample = SimilaritySample(options.similarity_tokens, options.seed) if options.similarity else None
    collector = Collector(loaded.model, options.lookahead, sample)
    new = options.max_new_tokens if options.mode == "generate" else 0
    requests = plan_requests(loaded, prompts, options.prompt_tokens, new)
    stopped: str | None = None
    with torch.no_grad(), collector, _bar(requests, options, progress) as bar:
        for number, request in enumerate(requests):
            whole = options.mode == "teacher_forced"
            collector.start_request(request.given if whole else len(request.turns[0].prompt), prompts[number].label)
            try:
                for step_tokens, phase in _steps(loaded.model, request, options, number):
                    collector.end_step(step_tokens, phase)
                    bar.update(len(step_tokens))
            except (Exception, KeyboardInterrupt) as error:  # of the model's own code, or for lack of memory
                stopped = _stopped(error, number, len(requests))
                if number == 0 and isinstance(error, KeyboardInterrupt):
                    raise
                if number == 0:
                    raise UserError(f"{family_name(loaded.model)}: {stopped}") from error
                collector.drop_request()
                break
    geometry, unknown = _geometry(loaded, collector)
    said = {**_provenance(loaded, prompts, options), **findings(loaded, prompts, requests)}
    said |= {**unknown, **(provenance or {})}
    if notes := [*loaded.notes, *left_out(loaded.model)]:
        said["notes"] = [*said.get("notes", []), *notes]
    if stopped is not None:
        said |= {"stopped": stopped, "notes": [*said.get("notes", []), stopped]}
    return collector.trace(geometry, said, top_k_extra=options.lookahead_extra, half=options.half_precision)


def _stopped(error: BaseException, number: int, requests: int) -> str:
    """Why a recording ended before its last prompt, as a sentence."""
    if isinstance(error, KeyboardInterrupt):
        return f"recording was interrupted in prompt {number} of {requests}"
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"recording stopped in prompt {number} of {requests}: {type(error).__name__}: {reason}"


def _geometry(loaded: LoadedModel, collector: Collector) -> tuple[Geometry, dict[str, Any]]:
    """The sizes of the model, and what is not known of them: a size that cannot be measured costs no recording."""
    layers = collector.layers
    try:
        geometry = measure_geometry(loaded.model, layers, loaded.source)
        if loaded.stored is None:
            return geometry, {}
        as_files = as_stored(geometry, layers, loaded.stored)
        if as_files is not None:
            return as_files, {}
        unclear = "the files hold quantised weights under names that do not tell whose they are"
        return _without_sizes(geometry), {"geometry": f"absent: {unclear}"}
    except Exception as error:  # of the model's own code
        most = max(layer.top_k for layer in layers)
        bare = Geometry(loaded.source, len(layers), layers[0].num_experts, most)
        return bare, {"geometry": f"absent: sizes cannot be measured ({type(error).__name__}: {error})"}


def _without_sizes(geometry: Geometry) -> Geometry:
    """The geometry without what depends on how weights are stored."""
    return replace(
        geometry, expert_bytes=None, attention_bytes=None, shared_bytes=None, other_bytes=None, weight_bits=None
    )


def _steps(model: Any, request: Request, options: RecordOptions, number: int) -> Iterator[tuple[list[int], int]]:
    """Run one request; yields the tokens and the phase of every forward pass after it ran.

    Each turn is its prompt in one pass, then its answer token by token: the given one, or what the model writes.
    """
    import torch

    device, cache = input_device(model), None
    if options.mode == "teacher_forced":
        everything = [token for turn in request.turns for token in (*turn.prompt, *(turn.answer or ()))]
        model(input_ids=torch.tensor([everything], device=device), use_cache=False)
        yield everything, PREFILL
        return
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
    stop: set[int | None] = set() if options.ignore_eos else _end_ids(model)
    for turn in request.turns:
        last = turn is request.turns[-1]
        given = turn.answer if turn.answer is None or not last else turn.answer[:-1]  # the last is never fed back
        count = options.max_new_tokens - 1 if given is None else len(given)
        keeps = not last or count > 0
        output = model(
            input_ids=torch.tensor([turn.prompt], device=device), past_key_values=cache, use_cache=keeps or bool(cache)
        )
        yield turn.prompt, PREFILL
        for place in range(count):
            cache = output.past_key_values
            token = _next_token(output.logits[0, -1], options.temperature, generator) if given is None else given[place]
            if given is None and token in stop:
                return
            output = model(input_ids=torch.tensor([[token]], device=device), past_key_values=cache, use_cache=True)
            yield [token], DECODE
        cache = output.past_key_values if keeps else None


def _next_token(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    import torch

    if temperature == 0:
        return int(logits.argmax())
    probabilities = (logits.float().cpu() / temperature).softmax(-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _end_ids(model: Any) -> set[int | None]:
    end = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if end is None:
        end = getattr(model.config, "eos_token_id", None)
    return set(end) if isinstance(end, list | tuple) else {end}


def _bar(requests: list[Request], options: RecordOptions, progress: bool) -> Any:
    from tqdm import tqdm

    new = options.max_new_tokens - 1 if options.mode == "generate" else 0
    total = sum(request.given + (new if request.generates else 0) for request in requests)
    return tqdm(total=total, desc=f"recording {len(requests)} requests", unit="token", disable=not progress)


def _provenance(loaded: LoadedModel, prompts: tuple[Prompt, ...], options: RecordOptions) -> dict[str, Any]:
    import torch
    import transformers

    config = loaded.model.config.to_dict()  # type: ignore[operator, union-attr]
    config.pop("_name_or_path", None)  # where it lay on this machine
    text = "\0".join(json.dumps(prompt.messages) if prompt.messages else prompt.text for prompt in prompts)
    greedy = options.temperature == 0
    return {
        "source": "recorded by running the model",
        "model": loaded.source,
        "model_type": str(config.get("model_type")),
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
        "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
        "experts_implementation": str(getattr(loaded.model.config, "_experts_implementation", "unknown")),
        "mode": options.mode,
        **({"forcing": "teacher"} if options.mode == "teacher_forced" else {}),
        **(
            {"decoding": "greedy" if greedy else f"sampled at temperature {options.temperature:g}"}
            if options.mode == "generate"
            else {}
        ),
        "max_new_tokens": options.max_new_tokens if options.mode == "generate" else 0,
        "ignore_eos": options.ignore_eos,
        "prompt_tokens_limit": options.prompt_tokens,
        "prompts_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "seed": options.seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
