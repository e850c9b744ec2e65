"""Requests as chats: which rows count as a prompt, which requests are turns of one chat, and in what order they come.

Every turn becomes a request of its own. With its KV cache kept it attends to what the turns before it left and computes
its own rows; with the cache lost it begins with all rows of the chat so far, decoded ones too, as prefill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.config import SessionConfig
from traces.errors import UserError
from traces.format.mapped import take_spans
from traces.format.trace import DECODE, PREFILL, ROW_ARRAYS, SCORE_TABLES, Trace, first_prompts, renumbered

Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Turns:
    """The N turns of all chats, in order of chat and turn; rows and tokens count as in the recorded trace."""

    chat: Whole
    """[N]"""
    turn: Whole
    """[N] from 0."""
    request: Whole
    """[N] the recorded request that it is part of."""
    first: Whole
    """[N] its first row."""
    rows: Whole
    """[N]"""
    unrecorded: Whole
    """[N] tokens before its first row that no row was recorded of."""

    def before(self, amounts: Whole) -> Whole:
        """[N] the sum of some amounts over the earlier turns of the same chat."""
        sums = np.cumsum(amounts) - amounts
        return np.asarray(sums - sums[np.maximum.accumulate(np.where(self.turn == 0, np.arange(sums.size), 0))])

    def take(self, chosen: Whole) -> Turns:
        """Some of the turns, in the order given."""
        return Turns(*(getattr(self, name)[chosen] for name in self.__slots__))


def as_session(trace: Trace, session: SessionConfig) -> tuple[Trace, list[str], list[str]]:
    """(the trace that is replayed, what is ESTIMATED in it, warnings); the trace itself with the defaults.

    Raises: UserError where the trace cannot be replayed so.
    """
    estimated, warnings = list[str](), list[str]()
    if session.prompt_rows is not None:
        trace, said = with_prompts(trace, session.prompt_rows)
        estimated += said
    if not session.cuts:
        return trace, estimated, warnings
    turns = turns_of(trace, session.turns)
    if session.turns is not None:
        estimated.append(
            f"SYNTHETIC chats: {session.turns} recorded requests of one label in a row are the turns of one chat; "
            "their routing is that of separate requests"
        )
    lost = 0 if session.keeps_kv else int((turns.before(turns.unrecorded) + turns.unrecorded)[turns.turn > 0].sum())
    if lost:
        warnings.append(
            f"{lost} tokens of lost KV caches have no recorded rows, so they are not prefilled again: the TTFT of "
            "later turns is too low by that"
        )
    cut = cut_into_turns(trace, turns, session)
    if not (first_prompts(cut, cut.phase) > 0).any():
        warnings.append(
            "no turn has recorded prompt rows, so no TTFT is known: session.prompt_rows=N takes the first N"
        )
    return cut, estimated, warnings


def with_prompts(trace: Trace, count: int) -> tuple[Trace, list[str]]:
    """The requests with more than ``count`` rows, the first ``count`` as prefill, the others decoded -> (trace, notes).

    Raises: UserError where no request has more rows, or one has several turns.
    """
    lengths = np.diff(trace.request_offsets)
    long = np.flatnonzero(lengths > count)
    if not long.size:
        raise UserError(
            f"session.prompt_rows={count}: must be below {int(lengths.max())}, the rows of the longest request"
        )
    kept = trace.take_requests(long.astype(np.int64), f"longer than {count}")
    phase, offsets = np.asarray(kept.phase), kept.request_offsets
    later = _turn_starts(phase, offsets)
    if later.size:
        request = int(np.searchsorted(offsets, later[0], side="right")) - 1
        raise UserError(f"session.prompt_rows={count}: request {request} has several turns, each with its own prompt")
    changed = np.full(phase.size, DECODE, np.uint8)
    changed[(offsets[:-1, None] + np.arange(count)).ravel()] = PREFILL
    prompts = np.asarray(kept.contexts() + count, np.int32)
    made = replace(kept, phase=changed, prompt_len=prompts, content_hash=f"{kept.content_hash}/prompt_rows[{count}]")
    notes = []
    if not np.array_equal(changed, phase):
        notes.append("the first recorded rows of every request count as its prompt (session.prompt_rows)")
    if long.size < lengths.size:
        notes.append(f"{lengths.size - long.size} of {lengths.size} requests have no more than {count} rows: left out")
    return made, notes


def _turn_starts(phase: NDArray[np.uint8], offsets: Whole) -> Whole:
    """Rows at which a later turn of a request begins: a prompt after decoded tokens."""
    begins = np.flatnonzero((phase[1:] == PREFILL) & (phase[:-1] == DECODE)) + 1
    return np.setdiff1d(begins, offsets[:-1]).astype(np.int64)


def turns_of(trace: Trace, joined: int | None) -> Turns:
    """All turns of a trace, in order of chat and turn; ``joined``: requests of one label that make a chat."""
    offsets = np.asarray(trace.request_offsets, np.int64)
    first = np.union1d(offsets[:-1], _turn_starts(np.asarray(trace.phase), offsets))
    request = np.searchsorted(offsets, first, side="right") - 1
    rows = np.diff(np.append(first, offsets[-1]))
    unrecorded = np.where(first == offsets[request], trace.contexts()[request], 0)
    chat = _chats(trace, joined)[request]
    order = np.lexsort((first, chat))
    chat = chat[order]
    turn = np.arange(chat.size) - np.searchsorted(chat, chat)
    return Turns(chat, turn, request[order], first[order], rows[order], unrecorded[order])


def _chats(trace: Trace, joined: int | None) -> Whole:
    """[R] the chat of each request, numbered in order of their first requests."""
    requests = np.arange(trace.num_requests)
    if joined is None:
        return requests
    labels, found = trace.clusters(), np.zeros(requests.size, np.int64)
    for label in (None,) if labels is None else np.unique(labels):
        mine = requests if labels is None else np.flatnonzero(labels == label)
        found[mine] = mine[np.arange(mine.size) // joined * joined]  # named after its first request for now
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def cut_into_turns(trace: Trace, turns: Turns, session: SessionConfig) -> Trace:
    """Every turn as a request of its own, chat by chat, or turn by turn where they interleave."""
    order = np.lexsort((turns.chat, turns.turn)) if session.interleave else np.arange(turns.chat.size)
    history, context = turns.before(turns.rows), turns.before(turns.unrecorded) + turns.unrecorded
    again = np.zeros_like(history) if session.keeps_kv else history
    ahead = (context + history - again)[order]  # tokens that a turn neither computes nor computes again
    spans = [_spans(turns, place, bool(again[place])) for place in order]
    starts, lengths = (np.concatenate(list(parts)).astype(np.int64) for parts in zip(*spans, strict=True))
    offsets = np.concatenate([[0], np.cumsum((again + turns.rows)[order])]).astype(np.int64)

    def rows_of(array: NDArray[Any]) -> NDArray[Any]:
        return take_spans(array, starts, lengths)

    changed: dict[str, Any] = {n: rows_of(array) for n in ROW_ARRAYS if (array := getattr(trace, n)) is not None}
    changed |= {n: table.take(rows_of) for n in SCORE_TABLES if (table := getattr(trace, n)) is not None}
    for begin, count in zip(offsets[:-1].tolist(), again[order].tolist(), strict=True):
        changed["phase"][begin : begin + count] = PREFILL
    chats, labels = turns.chat[order], trace.request_labels
    said = ["cached" if session.keeps_kv else "whole"] + ([] if session.turns is None else [f"{session.turns} joined"])
    said += ["interleaved"] * session.interleave
    cut = replace(
        trace,
        **changed,
        request_offsets=offsets,
        prompt_len=np.zeros(order.size, np.int32),
        request_labels=tuple(
            f"{'' if labels is None else f'{labels[request]} '}chat {chat}"
            for chat, request in zip(chats.tolist(), turns.request[order].tolist(), strict=True)
        ),
        request_numbers=np.arange(order.size),
        request_turns=np.stack([chats, turns.turn[order]], axis=1),
        provenance=renumbered(trace.provenance, turns.request[order].tolist()),
        content_hash=f"{trace.content_hash}/turns[{', '.join(said)}]",
    )
    return replace(cut, prompt_len=np.asarray(ahead + first_prompts(cut, cut.phase), np.int32))


def _spans(turns: Turns, place: int, whole: bool) -> tuple[Whole, Whole]:
    """Spans of recorded rows that a turn replays: its own, after those of the earlier turns where the ``whole`` is."""
    begin = place - int(turns.turn[place]) if whole else place
    return turns.first[begin : place + 1], turns.rows[begin : place + 1]
