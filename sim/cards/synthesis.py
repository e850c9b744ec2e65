"""A trace drawn from a card. SYNTHETIC: of any length and geometry, block by block, same seed same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from sim.cards.card import QUANTILES, Card, load_card
from sim.cards.routing import Routing, State, draw_block, routing_of
from sim.ranges import Amount, Range, Seed, check_ranges
from traces.errors import UserError
from traces.format.mapped import HELD_BYTES, map_file
from traces.format.softmax import softmax
from traces.format.trace import DECODE, PREFILL, Geometry, ScoreTable, Trace, id_dtype

DEFAULT_REQUESTS, DEFAULT_TOKENS = 16, 256
"""Where neither the knobs nor the card say."""
BLOCK_BYTES = 1 << 24
"""Drawn at once where a trace is too large to be held."""
MOST_ROWS = 2**40


@dataclass(frozen=True, slots=True)
class Wish:
    """What to draw from a card; None: as the card says."""

    card: str
    requests: Annotated[int | None, Range(1, 2**24)] = None
    tokens: Annotated[int | None, Range(1, 2**24)] = None
    """Decode tokens of every request."""
    prompt_len: Annotated[int | None, Range(0, 2**24)] = None
    """Prompt tokens of every request, which become rows; None: rows only where the card's trace had them."""
    layers: Annotated[int | None, Range(1, 4096)] = None
    experts: Annotated[int | None, Range(1, 65535)] = None
    top_k: Annotated[int | None, Range(1, 65535)] = None
    seed: Seed = 0
    spare: Amount = 0
    """Requests more than those: what rules learn from."""

    def __post_init__(self) -> None:
        check_ranges(self, "trace.")


@dataclass(frozen=True, slots=True)
class Plan:
    """Lengths of requests, [R]: prompt tokens, prompt rows, decode rows."""

    prompts: NDArray[np.int64]
    prompt_rows: NDArray[np.int64]
    decodes: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of each request."""
        return self.prompt_rows + self.decodes


@lru_cache(maxsize=2)
def _drawn(wish: Wish, card_hash: str) -> Trace:
    card = load_card(wish.card)
    if card.content_hash() != card_hash:
        raise UserError(f"card {wish.card} was changed while it was read: run again when it is complete")
    return synthesise(card, wish)


def synthetic_trace(wish: Wish) -> Trace:
    """The trace of a wish; the last two of a process are kept. Raises: UserError where it cannot be drawn."""
    return _drawn(wish, load_card(wish.card).content_hash())


def synthetic_hash(wish: Wish) -> str:
    """What names the trace of a wish, without drawing it."""
    card = load_card(wish.card)
    return _hash(card, wish, shape_of(card, wish))


def shape_of(card: Card, wish: Wish) -> Geometry:
    """Layers, experts and top_k to draw, with the card's sizes where they are the card's own.

    Raises: UserError where a token would use more experts than there are.
    """
    own = card.geometry
    layers, experts = wish.layers or own.num_layers, wish.experts or own.num_experts
    ranks = wish.top_k or own.top_k
    if ranks > experts:
        raise UserError(f"trace.top_k={ranks}: must be at most the {experts} experts of a layer")
    sizes = None if own.expert_bytes is None else (own.expert_bytes,) * layers
    return Geometry(card.model, layers, experts, ranks, sizes if experts == own.num_experts else None)


def synthesise(card: Card, wish: Wish) -> Trace:
    """Draw a trace. Raises: UserError where it would be too long, or a temporary file cannot be written."""
    shape = shape_of(card, wish)
    plan = plan_of(card, wish)
    if int(plan.rows.sum()) * shape.num_layers * shape.num_experts > MOST_ROWS:
        raise UserError(
            f"trace.requests={len(plan.decodes)}, of {int(plan.rows.sum())} tokens in all: must be fewer, or shorter"
        )
    routing = routing_of(card.generator, shape.num_layers, shape.num_experts, wish.seed)
    ids, weights, logits = _draw(routing, shape, plan, wish.seed)
    offsets = np.concatenate([[0], np.cumsum(plan.rows)]).astype(np.int64)
    lengths = np.stack([plan.prompt_rows, plan.decodes], axis=1).ravel()
    kinds = np.tile(np.array([PREFILL, DECODE], np.uint8), len(plan.decodes))
    return Trace(
        geometry=shape,
        topk_ids=ids,
        request_offsets=offsets,
        prompt_len=plan.prompts.astype(np.int32),
        phase=np.repeat(kinds, lengths),
        topk_weights=weights,
        router_logits=None if logits is None else ScoreTable(logits),
        ranked=True,
        score_function=None if logits is None else "softmax_topk",
        provenance={
            "label": "SYNTHETIC",
            "card": {"model": card.model, "label": card.label, "source": card.source, "hash": card.content_hash()},
            "seed": wish.seed,
            "statement": _statement(card, shape),
        },
        content_hash=_hash(card, wish, shape),
    )


def plan_of(card: Card, wish: Wish) -> Plan:
    """How long the requests are: as the knobs say, else drawn from the card's lengths."""
    wanted = wish.requests or (card.sample.requests if card.sample is not None else DEFAULT_REQUESTS)
    count = wanted + wish.spare
    numbers = np.random.default_rng([wish.seed, 1])
    places = numbers.random((2, count))  # drawn whether needed or not, so that one knob moves nothing else
    known = card.lengths
    prompts = np.interp(places[0], QUANTILES, known.prompt if known else [0] * len(QUANTILES))
    decodes = np.interp(places[1], QUANTILES, known.decode if known else [DEFAULT_TOKENS] * len(QUANTILES))
    if wish.prompt_len is not None:
        prompts = np.full(count, wish.prompt_len)
    if wish.tokens is not None:
        decodes = np.full(count, wish.tokens)
    elif known is not None and known.decode[-1] == 0:
        decodes = np.full(count, DEFAULT_TOKENS)
    recorded = wish.prompt_len is not None or (card.sample is not None and card.sample.prompt_rows > 0)
    whole = np.maximum(prompts.astype(np.int64), 0)
    return Plan(whole, whole if recorded else np.zeros(count, np.int64), np.maximum(decodes.astype(np.int64), 1))


def _statement(card: Card, shape: Geometry) -> str:
    """What a reader must know."""
    own = card.geometry
    text = (
        f"SYNTHETIC, drawn from a card ({card.label}; {card.source}), {shape.num_layers} MoE layers, top {shape.top_k} "
        f"of {shape.num_experts}"
    )
    if (shape.num_layers, shape.num_experts, shape.top_k) == (own.num_layers, own.num_experts, own.top_k):
        return text
    return f"{text}, where the card has {own.num_layers} and top {own.top_k} of {own.num_experts}"


def _hash(card: Card, wish: Wish, shape: Geometry) -> str:
    size = f"{shape.num_layers} layers, top {shape.top_k} of {shape.num_experts}"
    asked = f"requests {wish.requests}+{wish.spare}, tokens {wish.tokens}, prompt {wish.prompt_len}"
    return f"{card.content_hash()}/synthetic[{size}, {asked}, seed {wish.seed}]"


def _draw(
    routing: Routing, shape: Geometry, plan: Plan, seed: int
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """(ids [T, L, K], weights of the same shape, logits [T, L, E]), the last two None without score scales."""
    total, scored = int(plan.rows.sum()), routing.scale is not None
    layers, experts, ranks = shape.num_layers, shape.num_experts, shape.top_k
    row_bytes = layers * (ranks * 4 + (4 * experts if scored else 0))
    block_rows = max(1, BLOCK_BYTES // row_bytes)
    kinds: list[tuple[Any, tuple[int, ...]]] = [(id_dtype(experts), (layers, ranks))]
    if scored:
        kinds += [(np.float16, (layers, ranks)), (np.float32, (layers, experts))]
    sinks = [_Sink(total, dtype, shape_of_row) for dtype, shape_of_row in kinds]
    for request, length in enumerate(plan.rows.tolist()):
        state = State(routing)
        for start in range(0, length, block_rows):
            count = min(block_rows, length - start)
            ids = np.empty((count, layers, ranks), np.uint16)
            logits = np.empty((count, layers, experts), np.float32) if scored else None
            draw_block(routing, seed, request, state, ids, logits)
            sinks[0].add(ids)
            if logits is not None:
                sinks[1].add(softmax(np.take_along_axis(logits, ids.astype(np.int64), axis=-1)))
                sinks[2].add(logits)
    arrays = [sink.array() for sink in sinks]
    return arrays[0], arrays[1] if scored else None, arrays[2] if scored else None


class _Sink:
    """An array that is filled row by row: in memory, or where it is large in a file without a name."""

    def __init__(self, rows: int, dtype: Any, row: tuple[int, ...]) -> None:
        self.dtype, self.shape, self.done = np.dtype(dtype), (rows, *row), 0
        held = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize <= HELD_BYTES
        self.memory = np.empty(self.shape, self.dtype) if held else None
        self.file: IO[bytes] | None = None if held else _written(lambda: tempfile.TemporaryFile())  # noqa: SIM115

    def add(self, rows: NDArray[Any]) -> None:
        if self.memory is not None:
            self.memory[self.done : self.done + len(rows)] = rows
        else:
            file = self.file
            assert file is not None
            _written(lambda: file.write(rows.astype(self.dtype, copy=False).tobytes()))
        self.done += len(rows)

    def array(self) -> NDArray[Any]:
        if self.memory is not None:
            return self.memory
        file: Any = self.file
        _written(file.flush)
        array: NDArray[Any] = map_file(file).view(self.dtype).reshape(self.shape)
        return array


def _written(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except OSError as error:
        raise UserError(
            f"a temporary file in {tempfile.gettempdir()} cannot be written: {error.strerror or error}; "
            "set TMPDIR to a folder with more room, or draw fewer tokens"
        ) from error
