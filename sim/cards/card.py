"""The card of a trace: the schema of `conf/card/*.yaml`, its reader and its writer.

Sections under `generator` and `score_scale` are FITTED and drive `trace=synthetic`; all others are what was MEASURED of
a trace, or PUBLISHED of one that nobody has. L layers, E experts of a layer, K of them a token; lists by layer have L
entries, or one that holds for all layers.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import yaml

from sim.cards.numbers import bin_edges, check_list, check_sum, check_table
from sim.config import suggest, validate
from sim.paths import CONF, yaml_names
from sim.plain_yaml import read_mapping
from sim.ranges import Amount, Count, OneOf, Range, Share, check_ranges
from traces.errors import UserError
from traces.whole_file import write_whole

CARD_FOLDER = CONF / "card"
SCHEMA = 1
MOST_BINS = 64
"""Entries of a popularity curve: every expert where there are no more."""
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
MOST_BIAS = 100.0


@dataclass(frozen=True, slots=True)
class CardGeometry:
    """Sizes of the model that routed."""

    num_layers: Annotated[int, Range(1, 4096)]
    num_experts: Annotated[int, Range(1, 65535)]
    top_k: Annotated[int, Range(1, 65535)]
    expert_bytes: Count | None = None
    """Of one expert where all layers are alike; null: unknown."""

    def __post_init__(self) -> None:
        check_ranges(self, "geometry.")
        if self.top_k > self.num_experts:
            raise UserError(f"geometry.top_k={self.top_k}: must be at most num_experts={self.num_experts}")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the statistics were counted over."""

    trace_hash: str
    requests: Count
    rows: Count
    rows_are: Annotated[str, OneOf("decode", "prefill")]
    """Prefill only where the trace has no decode row."""
    prompt_rows: Amount

    def __post_init__(self) -> None:
        check_ranges(self, "sample.")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of requests, smallest, at the quantiles .1 .25 .5 .75 .9, and largest."""

    prompt: list[int]
    decode: list[int]

    def __post_init__(self) -> None:
        for name in ("prompt", "decode"):
            check_list(f"lengths.{name}", getattr(self, name), 0, 2**31, len(QUANTILES), whole=True, order="rising")


@dataclass(frozen=True, slots=True)
class Popularity:
    """How unevenly experts are used."""

    use: list[list[float]]
    """By layer: share of tokens that use an expert, the most used first; means over equal runs of experts."""
    top_shares: dict[str, float]
    """Share of all uses that go to so many of the most used experts, mean over layers."""
    entropy: list[float]
    """By layer, over its maximum."""

    def __post_init__(self) -> None:
        if not all(
            isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in self.top_shares.values()
        ):
            raise UserError(f"popularity.top_shares={self.top_shares}: must be shares from 0 to 1 by number of experts")


@dataclass(frozen=True, slots=True)
class Reuse:
    """How soon experts are used again, in one layer."""

    lags: list[int]
    overlap: list[list[float]]
    """By layer: share of a token's experts that the token so many tokens before used, same request."""
    slots: list[int]
    lru_hit_rate: list[float]
    """Share of uses with an LRU stack distance below so many experts: hits of a layer's LRU cache of so many slots,
    cold start, kept over requests; mean over layers."""
    lru_hit_rate_lowest: list[float]
    lru_hit_rate_highest: list[float]
    """Of the layers."""

    def __post_init__(self) -> None:
        check_list("reuse.lags", self.lags, 1, 2**20, whole=True, order="distinct")
        check_list("reuse.slots", self.slots, 1, 65535, whole=True, order="distinct")
        for name in ("lru_hit_rate", "lru_hit_rate_lowest", "lru_hit_rate_highest"):
            check_list(f"reuse.{name}", getattr(self, name), length=len(self.slots), order="rising")


@dataclass(frozen=True, slots=True)
class Union:
    """Distinct experts of neighbouring tokens of a request in one layer."""

    tokens: list[int]
    experts: list[float]
    lowest: list[float]
    highest: list[float]
    """Mean over layers, and of the layers."""

    def __post_init__(self) -> None:
        check_list("union.tokens", self.tokens, 1, 2**20, whole=True, order="distinct")
        for name in ("experts", "lowest", "highest"):
            check_list(f"union.{name}", getattr(self, name), 0, 65535, len(self.tokens), order="rising")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """How alike a token is to the most alike of the tokens before it: share of experts in common, over all layers."""

    window: Count
    """Tokens before it that are looked at."""
    mean: Share
    quantiles: list[float]
    """At 0 .1 .25 .5 .75 .9 1."""

    def __post_init__(self) -> None:
        check_ranges(self, "recurrence.")
        check_list("recurrence.quantiles", self.quantiles, length=len(QUANTILES), order="rising")


@dataclass(frozen=True, slots=True)
class Coupling:
    """How much a layer says of the next one, mean over layers."""

    next_top1_share: Share
    """Uses of the expert that follows a given expert of the layer before most often, per token with that expert."""
    alone_top1_share: Share
    """The same without knowing the layer before: tokens that use the most used expert."""

    def __post_init__(self) -> None:
        check_ranges(self, "coupling.")


@dataclass(frozen=True, slots=True)
class Drift:
    """Half the sum of differences of two popularities, mean over layers; 0 is none, 1 no expert in common."""

    between_halves: Share | None
    """First and second half of a request's tokens."""
    between_requests: Share | None
    """A request and all others."""
    prompt_and_decode: Share | None

    def __post_init__(self) -> None:
        check_ranges(self, "drift.")


@dataclass(frozen=True, slots=True)
class Prefill:
    """Rows of prompts, where the trace has them."""

    next_token_overlap: Share | None
    """Share of a prompt token's experts that the token before it used."""

    def __post_init__(self) -> None:
        check_ranges(self, "prefill.")


@dataclass(frozen=True, slots=True)
class Gate:
    """The slope of the gate around rank k and the bands of SMoE, where the trace has scores of all experts."""

    slope: Annotated[float, Range(0, 1000)]
    alphas: list[float]
    low_share: list[float]
    candidates: list[float]

    def __post_init__(self) -> None:
        check_ranges(self, "gate.")
        check_list("gate.alphas", self.alphas)
        check_list("gate.low_share", self.low_share, length=len(self.alphas))
        check_list("gate.candidates", self.candidates, 0, 65535, len(self.alphas))


@dataclass(frozen=True, slots=True)
class Published:
    """A published curve: hit rate of a layer's LRU cache over the share of its experts that it holds."""

    capacity: list[float]
    hit_rate: list[float]
    warm: bool
    """Experts that were never used before are not counted as misses."""
    drawn_hit_rate: list[float] | None = None
    """SIMULATED: what the generator's draw has there. Below top_k it depends on the order of a token's experts, which
    the curve does not say, and is not fitted."""

    def __post_init__(self) -> None:
        check_list("published.capacity", self.capacity, order="distinct")
        check_list("published.hit_rate", self.hit_rate, length=len(self.capacity), order="rising")
        if self.drawn_hit_rate is not None:
            check_list("published.drawn_hit_rate", self.drawn_hit_rate, length=len(self.capacity), order="rising")


@dataclass(frozen=True, slots=True)
class Generator:
    """A score of every expert in every layer for every token; the K best are used. See `sim.cards.routing`.

    Score = bias + noise of variance 1, which is made of parts with these shares: `token`, that of the token's kind;
    `shift`, how much of it is also that of the kind of the token before; `slow`, parts that forget over so many tokens
    (`times`; 0: never within a request).
    """

    bias: list[list[float]]
    """By layer, as `popularity.use`, in standard deviations of the noise."""
    token: list[float]
    shift: list[float]
    times: list[float]
    slow: list[list[float]]
    again: Share
    """How many tokens are of one of the last `kinds` kinds of their request, once it had as many."""
    kinds: Annotated[int, Range(1, 65536)]
    alike: Share
    """How much of the part of a token's kind two tokens of that kind have in common."""
    coupling: Share
    """How much the noise of a layer follows that of the layer before."""
    score_scale: list[float] | None = None
    """By layer: logit per unit of score, from the slope of the gate; null: there are no scores."""

    def __post_init__(self) -> None:
        check_ranges(self, "generator.")
        check_list("generator.times", self.times, 0, 1e9)


@dataclass(frozen=True, slots=True)
class Card:
    """A card. Raises: UserError naming the field, its value and what is allowed."""

    schema: int
    model: str
    label: Annotated[str, OneOf("MEASURED", "PUBLISHED")]
    source: str
    geometry: CardGeometry
    generator: Generator
    sample: Sample | None = None
    lengths: Lengths | None = None
    popularity: Popularity | None = None
    reuse: Reuse | None = None
    union: Union | None = None
    recurrence: Recurrence | None = None
    coupling: Coupling | None = None
    drift: Drift | None = None
    prefill: Prefill | None = None
    gate: Gate | None = None
    published: Published | None = None

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema={self.schema}: must be {SCHEMA}")
        check_ranges(self)
        for name in ("model", "source"):
            if not getattr(self, name).strip():
                raise UserError(f"{name}={getattr(self, name)!r}: must be a text that is not empty")
        if self.label == "MEASURED" and (self.sample is None or self.reuse is None):
            raise UserError("label=MEASURED: a card without the sections sample and reuse must be PUBLISHED")
        if self.label == "PUBLISHED" and self.published is None:
            raise UserError("label=PUBLISHED: a card without the section published must be MEASURED")
        self._check_generator()
        self._check_statistics()

    def _check_generator(self) -> None:
        made, layers = self.generator, self.geometry.num_layers
        runs = min(self.geometry.num_experts, MOST_BINS)
        rows = (1, layers)
        check_table("generator.bias", made.bias, rows, low=-MOST_BIAS, high=MOST_BIAS, length=runs, order="falling")
        check_table("generator.slow", made.slow, rows, length=len(made.times))
        for name in ("token", "shift"):
            check_list(f"generator.{name}", getattr(made, name), length=len(made.slow))
        for layer, slow in enumerate(made.slow):
            total = made.token[layer] + made.shift[layer] + sum(slow)
            check_sum(f"generator: token + shift + slow of layer {layer}", total, 1.0)
        if made.score_scale is not None:
            check_list("generator.score_scale", made.score_scale, 0, 1e6, layers)
        if (made.score_scale is None) != (self.gate is None):
            raise UserError("generator.score_scale: must be stated with the section gate, and null without it")

    def _check_statistics(self) -> None:
        shape = self.geometry
        layers, experts, ranks = shape.num_layers, shape.num_experts, shape.top_k
        if self.popularity is not None:
            runs = min(experts, MOST_BINS)
            check_table("popularity.use", self.popularity.use, (layers,), length=runs, order="falling")
            check_list("popularity.entropy", self.popularity.entropy, length=layers)
            widths = [int(end - start) for start, end in _pairs(bin_edges(experts, runs).tolist())]
            for layer, row in enumerate(self.popularity.use):
                total = sum(use * width for use, width in zip(row, widths, strict=True))
                check_sum(f"popularity.use[{layer}] over all experts", total, ranks)
        if self.reuse is not None:
            check_table("reuse.overlap", self.reuse.overlap, (layers,), length=len(self.reuse.lags))
            check_list("reuse.slots", self.reuse.slots, 1, experts, whole=True, order="distinct")
        if self.union is not None:
            check_list("union.experts", self.union.experts, 0, experts)

    def content_hash(self) -> str:
        """sha256 of all that the card says."""
        return hashlib.sha256(repr(_plain(self)).encode()).hexdigest()


def card_names() -> list[str]:
    """Names of the cards in `conf/card`."""
    return yaml_names(CARD_FOLDER)


def load_card(name: str) -> Card:
    """The card `conf/card/<name>.yaml`, or the one in the file at a path that ends in .yaml.

    Raises: UserError where there is none, or something in it cannot be.
    """
    if name.endswith((".yaml", ".yml")):
        return read_card(Path(name).expanduser())
    if name not in card_names():
        raise UserError(f"card={name}: must be one of {', '.join(card_names())}, or the path of a *.yaml file")
    return read_card(CARD_FOLDER / f"{name}.yaml")


def read_card(path: Path) -> Card:
    """The card in a file. Raises: UserError naming the file and the field."""
    content = read_mapping(path, "card")
    try:
        return card_from(content)
    except UserError as error:
        raise UserError(f"card {path.name}: {error}") from error


def card_from(content: Mapping[str, Any]) -> Card:
    """The card of plain values. Raises: UserError naming the field."""
    sections = _sections()
    values = dict(content)
    if unknown := [name for name in values if name not in {field.name for field in fields(Card)}]:
        raise UserError(f"{unknown[0]} is not a field of a card: {suggest(unknown[0], [f.name for f in fields(Card)])}")
    for name, kind in sections.items():
        if (section := values.get(name)) is None:
            continue
        if not isinstance(section, dict):
            raise UserError(f"{name}={section}: must be a group of fields")
        values[name] = validate(kind, section, f"{name}.")
    return validate(Card, values)


def write_card(path: Path, card: Card) -> None:
    """Write a card, whole or not at all; the same card, the same bytes."""
    write_whole(path, card_text(card).encode())


def card_text(card: Card) -> str:
    """The card as YAML; sections that it has not are left out."""
    plain = {name: value for name, value in _plain(card).items() if value is not None}
    heads = {name: value for name, value in plain.items() if not isinstance(value, dict)}
    sections = sorted((name for name in _sections() if name in plain), key=lambda name: name == "generator")
    return "\n".join([_dump(heads, False), *(_dump({name: plain[name]}) for name in sections)])


def _dump(values: dict[str, Any], flow: bool | None = None) -> str:
    return str(yaml.safe_dump(values, sort_keys=False, default_flow_style=flow, width=118, allow_unicode=True))


def _plain(card: Card) -> dict[str, Any]:
    return asdict(card)


def _sections() -> dict[str, Any]:
    """The dataclass of each section, by name."""
    kinds = {}
    for name, hint in get_type_hints(Card).items():
        for kind in get_args(hint) or (hint,):
            if kind is not NoneType and hasattr(kind, "__dataclass_fields__"):
                kinds[name] = kind
    return kinds


def _pairs(values: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(values))
