"""The schema of a replay's configuration, with type and range of every knob."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

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


def read_yaml(path: Path, what: str) -> Any:
    """The content of a yaml file, unresolved. Raises: UserError naming ``what`` it is where it cannot be read."""
    try:
        return OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} cannot be read: {error}") from error


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)


LARGEST = 2**63
"""Whole numbers stay below it in size: the engines count in 64 bits."""


def _fits(value: object, kind: type) -> bool:
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
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
    for name, value in values.items():
        kinds = [get_origin(kind) or kind for kind in _alternatives(hints[name])]
        if not any(_fits(value, kind) for kind in kinds):
            allowed = " or ".join(WORDS.get(kind, kind.__name__) for kind in kinds)
            raise UserError(f"{prefix}{name}={value}: must be {allowed}")
    return cls(**values)


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Which trace is replayed. ``embedded`` names a packaged trace; ``path``, if given, is read instead."""

    embedded: str | None = None
    path: str | None = None
    labels: list[str] | None = None
    """Only requests that carry one of these labels, as `python -m sim info` lists them."""
    requests: Count | None = None
    """Only the first n requests (of those labels)."""
    fit_requests: Amount | None = None
    """Hold out the last n requests: not replayed, for rules that learn from other requests. null: those that
    ``requests`` leaves out, else the last quarter if a rule of the policy needs them, else none."""
    as_decode: bool = False
    """Count rows recorded in one teacher-forced pass as decode steps (labelled in the output)."""
    geometry: str | None = None
    """For the embedded trace: the model whose sizes ``model=auto`` takes."""

    def __post_init__(self) -> None:
        check_ranges(self, "trace.")
        if self.labels is not None and not (self.labels and all(isinstance(label, str) for label in self.labels)):
            raise UserError(f"trace.labels={self.labels}: must be a list of labels, as [code,prose], or null")
        if self.embedded is None and self.path is None:
            raise UserError("trace.path is not set: give the path of a trace file, or trace=demo for the embedded one")


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


@dataclass(frozen=True, slots=True)
class TimeConfig:
    """The `time` group: a switch for every term of the time model, and how experts lie in host memory.

    ``memory``: ``pinned`` (asynchronous copies), ``pageable`` (the call holds the host), or ``staged`` (the host copies
    into a pinned buffer first). ``cuda_graphs``: one launch per expert and per layer in place of single kernels.
    ``contention``: CPU experts and copies slow each other down. A term that is switched off takes no time.
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
    memory: Annotated[str, OneOf("pinned", "pageable", "staged")] = "pinned"
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "time.")


ENGINES = ("simpy", "compiled", "untimed")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Knobs of a replay that belong to no group."""

    batch_size: Count = 1
    prefill_chunk: Annotated[int | None, Range(1, null="whole prompts")] = None
    """Tokens of a prompt that one step prefills; null: the whole prompt."""
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
