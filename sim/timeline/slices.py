"""Translates an engine's log into named slices, marks and counters, in order of time on each track."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.state import PREFILL
from sim.engine.clocks import timeline_log
from sim.engine.clocks.timeline_log import STAGED_COPY
from sim.engine.decision.counters import CHUNK, LOW_COPY
from sim.engine.interface import BlockResult
from sim.machine.parts import ATTENTION, CPU_WAIT, EXPERT, HOST, LAUNCH, LINK_WAIT, STORAGE_WAIT, SYNC

STEPS, GPU, SKIPPED, LINK, BACK, CPU, HOST_TRACK, STORAGE, STAGING = range(1, 10)
"""Tracks; every staging slot has one of its own from STAGING on."""
TRACKS = {
    STEPS: "steps",
    GPU: "GPU",
    SKIPPED: "not executed",
    LINK: "link",
    BACK: "link back",
    CPU: "CPU",
    HOST_TRACK: "host",
    STORAGE: "storage",
}
PEER_TRACKS = {LINK: "link from the second GPU", BACK: "link to the second GPU", STORAGE: "link to host memory"}
"""Where a second GPU stores experts."""
OUTCOMES = ("hit", "late", "fetch", "cpu", "substitute", "drop", "degrade")
SUBSTITUTE = "substitute"
"""Word for a demanded expert in whose place another is executed."""
REPLACEMENT = "replacement"
"""Word for an executed expert that the router did not choose."""
PART_WORDS = {
    ATTENTION: ("head", "head"),
    EXPERT: ("shared", "shared experts"),
    LINK_WAIT: ("wait_link", "wait for link"),
    CPU_WAIT: ("wait_cpu", "wait for CPU"),
    STORAGE_WAIT: ("wait_storage", "wait for storage"),
    SYNC: ("sync", "synchronise"),
    HOST: ("issue", "issue copies"),
}
DRAFT_WORDS = {ATTENTION: "computation", LAUNCH: "launches", HOST: "host"}
"""Part of drafting -> words."""
BEFORE_LOOKUP = {HOST: ("host", "host decisions"), SYNC: ("sync", "read back"), LAUNCH: ("launch", "launches")}
"""Constants between attention and lookup, in their order."""
"""Part of the GPU's time -> (category, words)."""


class Slice(NamedTuple):
    """Something that took place on a track."""

    track: int
    category: str
    name: str
    begin_ns: int
    end_ns: int
    args: str = ""
    """Members of a JSON object."""


class Mark(NamedTuple):
    """A demanded expert that was not executed, at its lookup."""

    track: int
    category: str
    name: str
    at_ns: int
    args: str


class Count(NamedTuple):
    """The value of counters at an instant."""

    name: str
    at_ns: int
    args: str


class Arrow(NamedTuple):
    """From a copy to the expert that waited for it: the `number` of both ends is the same."""

    number: int
    track: int
    at_ns: int
    starts: bool


Event = Slice | Mark | Count | Arrow


def _experts(numbers: Sequence[int]) -> str:
    """Experts of one layer, as "E3, E5"."""
    return ", ".join(f"E{number}" for number in numbers)


def step_slices(result: BlockResult, count: int, first: int, begin_ns: int) -> Iterator[Slice]:
    """The first ``count`` steps of a block that begins with step ``first`` at ``begin_ns``."""
    block = result.block
    for i in range(count):
        a, b = int(block.bounds[i]), int(block.bounds[i + 1])
        requests = np.unique(block.requests[a:b]).tolist()
        phase = "prefill" if block.phase[i] == PREFILL else "decode"
        begin_ns += int(block.pause_ns[i])
        end_ns = begin_ns + int(result.latency_ns[i])
        name = f"step {first + i} {phase} request {' '.join(map(str, requests))}"
        args = f'"step":{first + i},"requests":{requests},"tokens":{b - a}'
        yield Slice(STEPS, phase, name, begin_ns, end_ns, args)
        begin_ns = end_ns


def until_step(log: NDArray[np.int64], num_steps: int, num_layers: int) -> NDArray[np.int64]:
    """The rows of a block's log that belong to its first ``num_steps`` steps."""
    layers = np.flatnonzero(log[:, 0] == timeline_log.LOG_LAYER)
    if layers.size <= num_steps * num_layers:
        return log
    drafts = np.flatnonzero(log[:, 0] == timeline_log.LOG_DRAFT)
    drafts = drafts[drafts > layers[num_steps * num_layers - 1]]  # of the next step
    return log[: min([layers[num_steps * num_layers], *drafts[:1]])]


@dataclass(slots=True)
class Slicer:
    """Turns rows of a log (see ``sim.engine.clocks.timeline_log``) into events; keeps what spans several rows.

    An executed expert carries its outcome; a demanded one that is not executed becomes a mark, so that every demanded
    expert shows exactly once.
    """

    num_experts: int
    staging_slots: int
    before_lookup_ns: Sequence[int] = ()
    """Constants of a layer before its lookup, by part."""
    first_layer: int = 0
    """Number in the model of the device's first layer."""
    last_tier: str = "storage"
    """What a wait for ``STORAGE_WAIT`` is for."""
    arrow_numbers: Iterator[int] = field(default_factory=itertools.count)
    """Shared by all devices of a file."""
    copied: dict[int, int] = field(default_factory=dict)
    """Key of an expert -> when its copy began, of the copies of this layer step and of prefetches not used yet."""
    demanded: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Key of a demanded expert not seen executed yet -> (when it was looked up, outcome)."""
    stands_in: dict[int, list[int]] = field(default_factory=dict)
    """Key of an expert of this layer step -> experts executed in its place, for some token."""
    stands_for: dict[int, list[int]] = field(default_factory=dict)
    """The same the other way round."""
    staged: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Key of an expert in a staging slot -> (when its copy began, slot)."""
    slot_free_ns: list[int] = field(default_factory=list)
    """When each staging slot is free again, -1: not known yet."""

    def __post_init__(self) -> None:
        self.slot_free_ns = [0] * self.staging_slots

    def events(self, log: NDArray[np.int64]) -> Iterator[Event]:
        """The events of whole steps, in the order in which the engine logged them."""
        for kind, what, begin_ns, end_ns, extra in log.tolist():
            if kind == timeline_log.LOG_LAYER:
                yield from self._not_executed()
                yield from self._layer(self.first_layer + what, begin_ns, end_ns, extra)
            elif kind == timeline_log.LOG_EXPERT:
                yield from self._executed(what, begin_ns, end_ns, extra)
            elif kind in (timeline_log.LOG_COPY, timeline_log.LOG_PREFETCH):
                self.copied[what] = begin_ns
                yield self._copy(kind, what, begin_ns, end_ns, extra)
            elif kind == timeline_log.LOG_BACK:
                layer, expert = divmod(what, self.num_experts)
                name = f"L{self.first_layer + layer} make room for E{expert}"
                yield Slice(BACK, "back", name, begin_ns, end_ns)
            elif kind == timeline_log.LOG_READ:
                yield Slice(STORAGE, "read", f"{self._label(what)} read", begin_ns, end_ns, f'"prefetch":{extra}')
            elif kind == timeline_log.LOG_CPU:
                word = self._outcome(what)
                name, args = self._as_what(what, word)
                yield Slice(CPU, "cpu", name, begin_ns, end_ns, args)
            elif kind == timeline_log.LOG_PART:
                yield self._part(what, begin_ns, end_ns, extra)
            elif kind == timeline_log.LOG_DRAFT:
                yield Slice(
                    HOST_TRACK if extra == HOST else GPU, "draft", f"draft {DRAFT_WORDS[extra]}", begin_ns, end_ns,
                    f'"passes":{what}',
                )  # fmt: skip
            elif kind == timeline_log.LOG_HANDOVER and end_ns > begin_ns:
                yield Slice(GPU, "handover", "take over activations", begin_ns, end_ns, f'"tokens":{extra}')
            elif kind == timeline_log.LOG_OUTCOME:
                self.demanded[what] = (begin_ns, extra)
            elif kind == timeline_log.LOG_STAND_IN:
                self.stands_in.setdefault(what, []).append(extra)
                self.stands_for.setdefault(what - what % self.num_experts + extra, []).append(what % self.num_experts)
            elif kind == timeline_log.LOG_QUEUE:
                yield Count("queued copies", begin_ns, f'"demand":{what},"prefetch":{extra}')
            elif kind == timeline_log.LOG_HELD:
                yield Count("experts in slots", begin_ns, f'"experts":{what}')
                yield Count("bytes in slots", begin_ns, f'"bytes":{extra}')
        yield from self._not_executed()

    def _layer(self, layer: int, begin_ns: int, end_ns: int, tokens: int) -> Iterator[Slice]:
        """Attention on the GPU, then the constants before the lookup; what the host does is on a track of its own."""
        before = [(part, self.before_lookup_ns[part]) for part in BEFORE_LOOKUP if self.before_lookup_ns]
        at_ns = end_ns - sum(spent_ns for _, spent_ns in before)
        yield Slice(GPU, "attention", f"L{layer} attention", begin_ns, at_ns, f'"tokens":{tokens}')
        for part, spent_ns in before:
            category, words = BEFORE_LOOKUP[part]
            if spent_ns > 0:
                track = HOST_TRACK if part == HOST else GPU
                yield Slice(track, category, f"L{layer} {words}", at_ns, at_ns + spent_ns)
            at_ns += spent_ns

    def _label(self, key: int) -> str:
        layer, expert = divmod(key, self.num_experts)
        return f"L{self.first_layer + layer} E{expert}"

    def _outcome(self, key: int) -> str:
        """The outcome of an expert that is executed now."""
        outcome = self.demanded.pop(key, None)
        return REPLACEMENT if outcome is None else OUTCOMES[outcome[1]]

    def _not_executed(self) -> Iterator[Mark]:
        """What was demanded and is not executed, once the layer step is over."""
        for key, (at_ns, outcome) in self.demanded.items():
            word = OUTCOMES[outcome]
            by = self.stands_in.get(key, []) if word == SUBSTITUTE else []
            name = f"{self._label(key)} {word}" + (f" {_experts(by)}" if by else "")
            yield Mark(SKIPPED, word, name, at_ns, f'"outcome":"{word}"' + (f',"by":{by}' if by else ""))
        for kept in (self.demanded, self.stands_in, self.stands_for):
            kept.clear()

    def _as_what(self, key: int, word: str) -> tuple[str, str]:
        """(name, members of its arguments) of an expert that is executed, with the experts in whose place it is."""
        others = self.stands_for.get(key, [])
        name = f"{self._label(key)} {word}" + (f" for {_experts(others)}" if others and word == REPLACEMENT else "")
        return name, f'"outcome":"{word}"' + (f',"in_place_of":{others}' if others else "")

    def _executed(self, key: int, begin_ns: int, end_ns: int, tokens: int) -> Iterator[Slice | Arrow]:
        word = self._outcome(key)
        name, args = self._as_what(key, word)
        yield Slice(GPU, "expert", name, begin_ns, end_ns, f'"tokens":{tokens},{args}')
        since_copy_ns = self.copied.pop(key, None)
        if since_copy_ns is not None and word in ("fetch", "late"):
            number = next(self.arrow_numbers)
            yield Arrow(number, LINK, since_copy_ns, True)
            yield Arrow(number, GPU, begin_ns, False)
        if key in self.staged:
            since_ns, slot = self.staged.pop(key)
            self.slot_free_ns[slot] = end_ns
            yield Slice(STAGING + slot, "staged", f"{self._label(key)} staged", since_ns, end_ns)

    def _copy(self, kind: int, key: int, begin_ns: int, end_ns: int, extra: int) -> Slice:
        staged, copied = divmod(extra, STAGED_COPY)
        if staged:
            slot = next(i for i, free_ns in enumerate(self.slot_free_ns) if 0 <= free_ns <= begin_ns)
            self.slot_free_ns[slot], self.staged[key] = -1, (begin_ns, slot)
        category = "fetch" if kind == timeline_log.LOG_COPY else "prefetch"
        words = category + {CHUNK: " piece", LOW_COPY: " low precision"}.get(copied, "")
        return Slice(LINK, category, f"{self._label(key)} {words}", begin_ns, end_ns, f'"staged":{staged}')

    def _part(self, key: int, begin_ns: int, end_ns: int, part: int) -> Slice:
        category, words = PART_WORDS[part]
        layer = f"L{self.first_layer + key // self.num_experts} "
        waits = f"{self._label(key)} "
        where = {LINK_WAIT: waits, CPU_WAIT: waits, STORAGE_WAIT: waits, ATTENTION: ""}.get(part, layer)
        words = f"wait for {self.last_tier}" if part == STORAGE_WAIT else words
        return Slice(HOST_TRACK if part == HOST else GPU, category, where + words, begin_ns, end_ns)
