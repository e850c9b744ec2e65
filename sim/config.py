"""The schema of a replay's configuration, with type and range of every knob."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from sim.ranges import Amount, Count, OneOf, Range, Seed, check_ranges
from traces.errors import UserError

T = TypeVar("T")
WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "null", list: "a list",
    dict: "a group",
}  # fmt: skip


def to_plain_dict(config: Any, name: str = "config") -> dict[str, Any]:
    """A resolved configuration group as a plain dict. Raises UserError where it is no group."""
    if config is None:
        raise UserError(f"{name} is missing from the configuration")
    if not isinstance(config, DictConfig):
        raise UserError(f"{name}={config}: must be a group of knobs, not a value")
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)


LARGEST = 2**63
"""Whole numbers stay below it: the engines count in 64 bits."""


def _fits(value: object, kind: type) -> bool:
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and -LARGEST <= value < LARGEST
        return whole or (kind is float and isinstance(value, float))
    return isinstance(value, kind)


def suggest(name: object, known: Collection[str]) -> str:
    """The end of a sentence on an unknown name: the nearest known one, else all that are known."""
    near = get_close_matches(str(name), known, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"


def validate(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """A dataclass from plain values, each of its declared type.

    Raises: UserError naming the unknown field and the nearest known one, the missing field, or the field, its value and
    the type allowed.
    """
    hints = get_type_hints(cls)
    known = {declared.name: declared for declared in fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise UserError(f"{prefix}{name} is not a field of {cls.__name__}: {suggest(name, known)}")
    for name, declared in known.items():
        required = declared.default is MISSING and declared.default_factory is MISSING
        absent = name not in values or (values[name] is None and NoneType not in _alternatives(hints[name]))
        if required and absent:
            raise UserError(f"{prefix}{name} is missing: state it")
    values = dict(values)
    for name, value in values.items():
        kinds = [get_origin(kind) or kind for kind in _alternatives(hints[name])]
        if int in kinds and float not in kinds and isinstance(value, float) and abs(value) < LARGEST and value % 1 == 0:
            values[name] = value = int(value)  # 20e9
        if not any(_fits(value, kind) for kind in kinds):
            allowed = " or ".join(WORDS.get(kind, kind.__name__) for kind in kinds)
            if isinstance(value, int) and not isinstance(value, bool) and {int, float} & {*kinds}:
                allowed += ", below 2**63 in size"
            raise UserError(f"{prefix}{name}={value}: must be {allowed}")
    return cls(**values)


def path_of(name: str, value: object) -> Path | None:
    """The path that a knob gives, `~` replaced; None for null. Raises: UserError for another shape."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{name}={value}: must be a word or null")
    return Path(value).expanduser()


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Which trace is replayed. ``embedded`` names a packaged trace; ``path``, if given, is read instead."""

    embedded: str | None = None
    path: str | None = None
    shape: Annotated[str, OneOf("own", "model", "card")] = "own"
    """``own``: as recorded; ``model``: a SYNTHETIC stand-in with the layers, experts and top_k of ``model=NAME``;
    ``card``: SYNTHETIC, drawn from ``card``."""
    gate_slope: Annotated[float, Range(0, 100, above=True)] = 1.0
    """Of a stand-in: factor on its logits, which brings its scores closer together (below 1) or apart."""
    labels: list[str] | None = None
    """Only requests that carry one of these labels, as `python -m sim info` lists them."""
    requests: Count | None = None
    """Only the first n requests (of those labels)."""
    sample: Count | None = None
    """Instead of the first: n requests drawn by the run's seed, as many of each label as of any other."""
    fit_requests: Amount | None = None
    """Hold out the last n requests: not replayed, for rules that learn from other requests. null: those that
    ``requests`` leaves out, else the last quarter if a rule of the policy needs them, else none."""
    fit_on: Annotated[str, OneOf("others", "prompts", "tokens")] = "others"
    """What rules learn from that learn before a run. ``others``: requests that are not replayed; ``prompts``: the first
    prompt of each replayed request; ``tokens``: the first ``fit_tokens`` of each replayed request."""
    fit_tokens: Count | None = None
    """For ``fit_on=tokens``."""
    as_decode: bool = False
    """Count rows recorded in one teacher-forced pass as decode steps (labelled in the output)."""
    geometry: str | None = None
    """For the embedded trace: the model whose sizes ``model=auto`` takes."""
    card: str | None = None
    """Of ``shape: card``: a name in `conf/card`, or the path of a *.yaml file. The knobs below are of it alone; null:
    as the card says, and ``requests`` is then how many are drawn."""
    tokens: Annotated[int | None, Range(1, 2**24)] = None
    """Decode tokens of every request."""
    prompt_len: Annotated[int | None, Range(0, 2**24)] = None
    """Prompt tokens of every request."""
    layers: Annotated[int | None, Range(1, 4096)] = None
    experts: Annotated[int | None, Range(1, 65535)] = None
    top_k: Annotated[int | None, Range(1, 65535)] = None
    seed: Seed = 0
    """Of the draw; the seed of the run is another."""

    def __post_init__(self) -> None:
        check_ranges(self, "trace.")
        if self.labels is not None and not (self.labels and all(isinstance(label, str) for label in self.labels)):
            raise UserError(f"trace.labels={self.labels}: must be a list of labels, as [code,prose], or null")
        if self.requests is not None and self.sample is not None:
            raise UserError(
                f"trace.sample={self.sample} and trace.requests={self.requests} exclude each other: the first n "
                "requests, or n spread over all"
            )
        if (self.fit_on == "tokens") != (self.fit_tokens is not None):
            raise UserError(
                f"trace.fit_tokens={self.fit_tokens} and trace.fit_on={self.fit_on}: fit_on=tokens takes a number of "
                "tokens, and no other does"
            )
        if self.shape != "model" and self.gate_slope != 1.0:
            raise UserError(
                f"trace.gate_slope={self.gate_slope}: only for a stand-in; trace.shape={self.shape} takes 1"
            )
        self._check_card()
        if self.embedded is None and self.path is None and self.card is None:
            raise UserError("trace.path is not set: give the path of a trace file, or trace=demo for the embedded one")

    def _check_card(self) -> None:
        """Raises: UserError where a card is asked for and not named, or something else is asked for with it."""
        if self.shape == "card":
            if self.card is None:
                raise UserError(
                    "trace.card is not set: trace=synthetic takes card=NAME of conf/card, or card=FILE.yaml"
                )
            for name in ("path", "embedded", "labels", "sample"):
                if (value := getattr(self, name)) is not None:
                    raise UserError(
                        f"trace.{name}={value}: must be null with trace=synthetic, which draws its requests"
                    )
            return
        for name in ("card", "tokens", "prompt_len", "layers", "experts", "top_k"):
            if (value := getattr(self, name)) is not None:
                raise UserError(f"trace.{name}={value}: only for trace=synthetic; trace.shape={self.shape} takes null")
        if self.seed:
            raise UserError(f"trace.seed={self.seed}: only for trace=synthetic; trace.shape={self.shape} takes 0")

    def recorded(self) -> TraceConfig:
        """The same requests as recorded, where this asks for a stand-in of them."""
        return replace(self, shape="own", gate_slope=1.0) if self.shape == "model" else self


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """The `sweep` group: where the runs of a sweep go and what a job runs. It decides no result."""

    name: str = ""
    """The folder in outputs/sweep: a killed sweep of the same name continues."""
    grid: dict[str, Any] = field(default_factory=dict)
    """Keys with lists of values: one job replays every combination."""
    steps: bool = True
    """Write steps.parquet, one row per step; sums per request are always kept."""
    objectives: list[str] | None = None
    """Metrics that a job returns to a sweeper that optimises."""

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.objectives or ()):
            raise UserError(f"sweep.objectives={self.objectives}: must be a list of names of metrics, or null")


@dataclass(frozen=True, slots=True)
class TimeConfig:
    """The `time` group: a switch for every term of the time model. A term that is switched off takes no time.

    ``contention``: CPU experts and copies slow each other down.
    """

    attention: bool = True
    experts: bool = True
    shared_experts: bool = True
    head: bool = True
    launch: bool = True
    readback: bool = True
    sync: bool = True
    host: bool = True
    decision: bool = True
    link: bool = True
    link_call: bool = True
    contention: bool = True
    dequantise: bool = True
    cpu_transfer: bool = True
    storage: bool = True
    install: bool = True


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """The `session` group: chats of several turns. The defaults replay every request as it was recorded.

    With any but ``prompt_rows`` every turn of a request is replayed as a request of its own, on the context that the
    turns before it left.
    """

    by_turn: bool = False
    """Tell the turns of recorded requests apart."""
    turns: Annotated[int | None, Range(1, null="as recorded")] = None
    """So many requests of one label in a row become the turns of one chat (SYNTHETIC)."""
    prompt_rows: Annotated[int | None, Range(1, null="as recorded")] = None
    """The first n recorded rows of every request count as its prompt, the others as decoded; shorter requests are left
    out."""
    think_s: Annotated[float, Range(0, 1e6)] = 0.0
    """Between two turns of a chat: the device is idle, copies go on."""
    keep: Annotated[str, OneOf("all", "experts", "kv", "none")] = "all"
    """What a chat finds again at its next turn. Without its KV cache the whole context is prefilled again; without its
    experts, which other sessions have pushed out, every turn finds the cache as at the start."""
    interleave: bool = False
    """All chats at once: the first turn of each, then the second of each, ..."""

    def __post_init__(self) -> None:
        check_ranges(self, "session.")
        if self.interleave and self.think_s:
            raise UserError(
                f"session.think_s={self.think_s:g}: with session.interleave=true the turns of other chats fill the "
                "time between two turns; use 0"
            )

    @property
    def cuts(self) -> bool:
        """Whether every turn is replayed as a request of its own."""
        return self.by_turn or self.interleave or self.turns is not None or self.think_s > 0 or self.keep != "all"

    @property
    def keeps_kv(self) -> bool:
        """Whether a turn finds the KV cache of the turns before it."""
        return self.keep in ("all", "kv")

    @property
    def keeps_experts(self) -> bool:
        """Whether a turn finds the experts that the turn before it left."""
        return self.keep in ("all", "experts")


TOKEN, CHUNK, EXPERT, BYPASS, STREAM = ORDERS = ("token", "chunk", "expert", "bypass", "stream")
PAST_CACHE = ("never", "overflow", "always")


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """The `prefill` group: how prompts get at their experts."""

    order: Annotated[str | None, OneOf(*ORDERS)] = None
    """``token``: a step per token, so that an expert comes as often as it has left; ``chunk``: steps of
    ``prefill_chunk`` tokens; ``expert``: whole prompts, of which every expert comes at most once per layer; ``bypass``:
    those past the cache, what it lacks through staging slots; ``stream``: whole layers of experts past the cache
    through two buffers, each copied while the layer before computes, of which rules see nothing. None: as
    ``prefill_chunk`` says, through the cache."""
    bypass: Annotated[str, OneOf(*PAST_CACHE[1:])] = "overflow"
    """Which prompts ``bypass`` and ``stream`` lead past the cache: those of which a layer demands more than its slots,
    or ``always``. The others go through it as with ``expert``."""
    pass_tokens: Annotated[int | None, Range(1, null="whole prompts")] = None
    """Of ``expert``, ``bypass`` and ``stream``: so many tokens of a prompt at a time, every time with all its experts
    anew."""

    def __post_init__(self) -> None:
        check_ranges(self, "prefill.")
        if self.pass_tokens is not None and self.order not in (EXPERT, BYPASS, STREAM):
            raise UserError(
                f"prefill.pass_tokens={self.pass_tokens}: only for prefill.order={EXPERT}, {BYPASS} or {STREAM}; "
                "prefill_chunk is the size of others"
            )

    @property
    def streams(self) -> bool:
        """Whether prompts that go past the cache are streamed layer by layer."""
        return self.order == STREAM

    @property
    def goes_past(self) -> int:
        """Which prompts go past the cache, an index of ``PAST_CACHE``."""
        return PAST_CACHE.index(self.bypass) if self.order in (BYPASS, STREAM) else 0

    def chunk(self, prefill_chunk: int | None) -> int | None:
        """Tokens of a prompt that one step takes; None: the whole prompt. Raises: UserError without a size."""
        if self.order == CHUNK and prefill_chunk is None:
            raise UserError("prefill.order=chunk needs the tokens of a chunk: give prefill_chunk=N")
        sizes = {None: prefill_chunk, CHUNK: prefill_chunk, TOKEN: 1}
        return sizes.get(self.order, self.pass_tokens)


DRAFTS = ("ngram", "mtp", "model")
RECORDED, CYCLE = "recorded", "cycle"


@dataclass(frozen=True, slots=True)
class SpeculateConfig:
    """The `speculate` group: drafts that a decode step verifies together with a request's next token."""

    tokens: Annotated[int, Range(0, 64)] = 0
    """Drafts per step and request; 0: no speculation."""
    acceptance: float | list[float] | str = 0.7
    """Probability that a draft is accepted once all before it were; a list: of the first, the second, ... draft;
    ``recorded``: each step verifies as many drafts and accepts as many as the trace's ``draft_counts`` say, at most
    ``tokens``."""
    decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Factor on that probability from one draft to the next."""
    rejected: Annotated[str, OneOf("recorded", "other")] = "recorded"
    """Whose routing stands in for that of a rejected draft, which no trace holds. ``recorded``: that of the text's own
    token, whose experts the next steps want anyway, so that it flatters drafts where experts stream; ``other``: that of
    another token of the request, drawn evenly, whose experts are as good as wasted."""
    draft: Annotated[str, OneOf(*DRAFTS)] = "mtp"
    """What drafts: ``ngram`` (takes no time), ``mtp`` (a layer of the model's own), ``model`` (a model of its own)."""
    draft_bytes: Annotated[int | None, Range(1, null="the sizes of the model")] = None
    """Bytes of weights that one pass of the draft reads; null, for ``mtp`` only: derived from the model's sizes."""
    draft_kv_bytes: Annotated[int | None, Range(0, null="as a layer of the model")] = None
    """K and V of one token in the draft, which ``cache.bytes=auto`` counts; null, for ``mtp`` only: of each of its
    layers as much as of one of the model."""
    draft_layers: Count = 1
    """Layers of the draft, each with the launches and the host time of one."""

    def __post_init__(self) -> None:
        check_ranges(self, "speculate.")
        said = f"speculate.acceptance={self.acceptance}"
        if isinstance(self.acceptance, str) and not self.recorded:
            raise UserError(f"{said}: must be a probability, a list of them, or {RECORDED}")
        if self.recorded and self.decay != 1.0:
            raise UserError(f"speculate.decay={self.decay:g}: recorded acceptance does not decay by a knob; use 1")
        if self.draft == "model" and self.tokens and self.draft_bytes is None:
            raise UserError("speculate.draft=model: state speculate.draft_bytes, the weights that one pass reads")
        if isinstance(self.acceptance, str):
            return
        each = self.acceptance if isinstance(self.acceptance, list) else [self.acceptance]
        if not all(_fits(one, float) and 0 <= one <= 1 for one in each):
            raise UserError(f"{said}: must be between 0 and 1")
        if isinstance(self.acceptance, list) and len(each) != self.tokens:
            raise UserError(
                f"{said}: a list must have a probability for each of the speculate.tokens={self.tokens} drafts"
            )

    @property
    def recorded(self) -> bool:
        """Whether the trace says how many drafts of a step are accepted."""
        return self.acceptance == RECORDED

    def chances(self) -> list[float]:
        """[tokens] probability that each draft is accepted once all before it were; 0 where the trace says it."""
        if isinstance(self.acceptance, str):
            return [0.0] * self.tokens
        if isinstance(self.acceptance, list):
            return [one * self.decay**i for i, one in enumerate(self.acceptance)]
        return [float(self.acceptance) * self.decay**i for i in range(self.tokens)]


ENGINES = ("simpy", "compiled", "untimed")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Knobs of a replay that belong to no group."""

    batch_size: Count = 1
    prefill_chunk: Annotated[int | None, Range(1, null="whole prompts")] = None
    """Tokens of a prompt that one step prefills; null: the whole prompt."""
    layers: Annotated[str, OneOf(RECORDED, CYCLE)] = RECORDED
    """``cycle``: the recorded layers over and over, to the depth of the model (ESTIMATED)."""
    seed: Seed = 0
    timeline: bool = False
    """Write what GPU, link and CPU did when."""
    timeline_steps: Annotated[int | None, Range(1, null="all steps")] = 200
    """Only of the first n steps; null: of all."""
    what_if: bool = False
    """Replay again with one thing idealised at a time."""
    engine: Annotated[str, OneOf(*ENGINES)] = "simpy"

    def __post_init__(self) -> None:
        check_ranges(self)
