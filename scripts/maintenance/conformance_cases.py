"""The cases that scripts.maintenance.conformance replays: what each shows, its trace, cache and machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from policies.assignment.two_pointer import TwoPointer
from policies.base import Policy
from policies.prediction.lookahead import Lookahead
from policies.prefetch.top_score import TopScore
from policies.substitution.score_band import ScoreBand
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.config import RECORDED, RunConfig, SpeculateConfig
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime
from traces.format.ranks import stored_ids
from traces.format.trace import DECODE, NO_STEP, PREFILL, Geometry, ScoreTable, Trace

EXPERT_BYTES, COPY_NS, EXPERT_NS = 1000, 1000, 250
LRU = load_policy("lru")
PREFETCH = replace(LRU, name="lru+lookahead", prediction=Lookahead(), prefetch=TopScore(alpha=0.0))
BAND = replace(LRU, name="lru+score_band", substitution=ScoreBand(alpha=0.35))
CPU = replace(LRU, name="lru+two_pointer", assignment=TwoPointer())
RULES = {
    "lru": "evict the expert that was used least recently; of equals that of the lowest layer and number",
    "belady_admit": "evict the expert that is used next latest, never one of the running step; every miss is kept",
    "belady": "the same, but a miss that is used next later than all residents is executed and not kept",
    "oracle": "after each step keep, of residents and demanded, those that are used next soonest",
    "on_demand": "nothing is kept: every expert is copied into a staging slot, two of which there are",
    "lru+lookahead": "lru; at the lookup of a layer the two experts of best `lookahead` score are copied for the next",
    "lru+score_band": "lru; in decode a missing expert of score below 1.35 S, with S the best score that is not "
    "routed, "
    "is replaced by the best resident of score between .65 S and S that is not routed",
    "lru+two_pointer": "lru; misses sorted by the tokens they serve, then by gate weight: from one end to the "
    "link, from "
    "the other to the CPU, to whichever is done sooner",
}


@dataclass(frozen=True)
class Case:
    """What is replayed. ``requests``: (tokens of the prompt, ids [T][L][K]); times in ns. ``drafts``: of each token of
    each request those of the step that begins with it and how many of them are accepted, None where none begins."""

    name: str
    about: str
    policy: Policy
    requests: tuple[tuple[int, Any], ...]
    num_experts: int
    cache: dict[str, Any] = field(default_factory=lambda: {"slots_per_layer": 2})
    batch_size: int = 1
    layer_ns: int = 0
    expert_ns: int = EXPERT_NS
    cpu_expert_ns: int | None = None
    scores: Any = None
    lookahead: Any = None
    drafts: tuple[tuple[tuple[int, int] | None, ...], ...] | None = None

    def trace(self) -> Trace:
        """The requests one after the other; logits are the logarithms of the scores."""
        ids = np.concatenate([np.asarray(tokens, np.int64) for _, tokens in self.requests])
        _, layers, ranks = ids.shape
        lengths = [len(tokens) for _, tokens in self.requests]
        phases = [
            [PREFILL] * prompt + [DECODE] * (n - prompt) for (prompt, _), n in zip(self.requests, lengths, strict=True)
        ]
        scores = None if self.scores is None else np.asarray(self.scores, np.float32)
        ahead = None if self.lookahead is None else ScoreTable(np.log(np.asarray(self.lookahead, np.float32)))
        fewer = bool((ids < 0).any())
        return Trace(
            fewer=fewer,
            geometry=Geometry(
                self.name, layers, self.num_experts, ranks, expert_bytes=(EXPERT_BYTES,) * layers,
                attention_bytes=(0,) * layers, shared_bytes=(0,) * layers, other_bytes=0, kv_bytes_per_token=0,
                hidden_size=1, weight_bits=16.0,
            ),
            topk_ids=stored_ids(ids, 256),
            topk_weights=None if scores is None else np.take_along_axis(scores, ids, -1),
            router_logits=None if scores is None else ScoreTable(np.log(scores)),
            lookahead_before=ahead,
            lookahead_after=None,
            score_function="softmax",
            request_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            prompt_len=np.array([prompt for prompt, _ in self.requests], np.int32),
            phase=np.concatenate(phases).astype(np.uint8),
            draft_counts=None
            if self.drafts is None
            else np.array([one or (NO_STEP, 0) for request in self.drafts for one in request], np.uint8),
            content_hash=self.name,
        )  # fmt: skip

    def replay(self, engine: str) -> Replay:
        """Ready to run, a step at a time, with a log of outcomes."""
        cpu = None if self.cpu_expert_ns is None else EXPERT_BYTES / (self.cpu_expert_ns * 1e-9)
        hardware = Hardware("vector", 10**9, EXPERT_BYTES / (self.expert_ns * 1e-9), 1e24, 0.0, 1e9)
        hardware = replace(hardware, cpu_memory_bytes_per_s=cpu)
        runtime = Runtime("vector", staging_slots=2, host_s_per_layer=self.layer_ns * 1e-9)
        run = RunConfig(engine=engine, batch_size=self.batch_size, timeline=True, timeline_steps=None)
        most = max((one[0] for request in self.drafts or () for one in request if one), default=0)
        drafts = SpeculateConfig(most, RECORDED if most else 0.0, draft="ngram")
        setup = DeviceSetup(self.policy, Machine(hardware, runtime), CacheConfig(**self.cache), run, speculate=drafts)
        found = assemble(self.trace(), setup)
        found.steps_at_once = 1
        return found


def letters(*steps: str) -> list[list[list[int]]]:
    """Ids of one layer: a token per word, an expert per letter, - for a rank without an expert."""
    return [[["-ABCDEFGH".index(letter) - 1 for letter in step]] for step in steps]


SCORES = [
    [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]],
    [[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]],
]
FORESEEN = [[[0.1, 0.2, 0.3, 0.4]], [[0.4, 0.3, 0.2, 0.1]]]
FORESEEN_REQUEST = ((0, [[[0, 1], [2, 3]], [[0, 1], [0, 1]]]),)
PLAIN = (
    Case(
        "lru",
        "A B A C A B A D with two slots: A hits whenever it returns, 3 hits",
        LRU,
        ((0, letters(*"ABACABAD")),),
        4,
    ),
    Case(
        "lru_step_is_looked_up_whole",
        "A B, then C A: A is still there, since a step is looked up before any of it is admitted; a list of accesses "
        "one after the other has thrown A out for C",
        LRU,
        ((0, letters("AB", "CA")),),
        4,
    ),
    Case(
        "lru_ties",
        "two slots hold A and B, equally old, at the start: C takes the slot of A, so B hits",
        LRU,
        ((0, letters("C", "B")),),
        4,
        {"slots_per_layer": 2, "start": "warm"},
    ),
    Case(
        "lru_prompt_overflows",
        "a prompt of A B C D is one step of four misses; two slots keep the last two of it, so D and C hit and A not",
        LRU,
        ((4, letters(*"ABCDDCA")),),
        4,
    ),
    Case(
        "lru_batch_union",
        "two requests decode together: a step demands the union of their experts, a shared one once",
        LRU,
        ((0, letters("AB", "AC", "BC")), (0, letters("BC", "AB", "DA"))),
        4,
        {"slots_per_layer": 3},
        batch_size=2,
    ),
    Case(
        "lru_two_layers_time",
        "host 5000 ns per layer, a copy 1000, an expert 250: two misses take 5000 + 2 x 1000 + 250, since the first is "
        "executed beside the second copy",
        LRU,
        ((0, [[[0, 1], [2, 3]], [[0, 2], [2, 3]]]),),
        4,
        layer_ns=5000,
    ),
    Case(
        "lru_fewer_than_k",
        "A B, C, nothing, A C with two slots: C takes the slot of A, a token without experts neither demands nor takes "
        "time, then A is fetched and C hits",
        LRU,
        ((0, letters("AB", "C-", "--", "AC")),),
        4,
    ),
    Case(
        "belady_admit",
        "A B C A B with two slots, every miss kept: 1 hit",
        load_policy("belady_admit"),
        ((0, letters(*"ABCAB")),),
        4,
    ),
    Case(
        "belady", "A B C A B with two slots, C passes by: 2 hits", load_policy("belady"), ((0, letters(*"ABCAB")),), 4
    ),
    Case(
        "belady_next_use",
        "A B B A C A B A with two slots: for C the slot of B goes, since A is used in the very next step; a table of "
        "next uses that begins a step too late throws A out",
        load_policy("belady_admit"),
        ((0, letters(*"ABBACABA")),),
        4,
    ),
    Case(
        "oracle",
        "A B, C A, B C, A B with two slots: what stays is chosen after each step among residents and demanded",
        load_policy("oracle"),
        ((0, letters("AB", "CA", "BC", "AB")),),
        4,
    ),
    Case(
        "on_demand",
        "nothing is kept: every demanded expert is copied, every time",
        load_policy("on_demand"),
        ((0, letters("AB", "AB", "AB")),),
        4,
    ),
    Case(
        "prefetch_in_time",
        "layer 1 is foreseen rightly at the lookup of layer 0, and 5000 ns of host time hide the copies: hits",
        PREFETCH,
        FORESEEN_REQUEST,
        4,
        {"slots_per_layer": 4},
        layer_ns=5000,
        scores=SCORES,
        lookahead=FORESEEN,
    ),
    Case(
        "prefetch_on_the_link_is_late",
        "the same without host time: what is on the link when its layer comes is late and no hit; what still waits "
        "for the link is fetched on demand",
        PREFETCH,
        FORESEEN_REQUEST,
        4,
        {"slots_per_layer": 4},
        scores=SCORES,
        lookahead=FORESEEN,
    ),
    Case(
        "substitution",
        "B D, B E, B C: D, the best that is resident and in the band, stands in for E and then for C",
        BAND,
        ((0, [[[1, 3]], [[1, 4]], [[1, 2]]]),),
        6,
        {"slots_per_layer": 3},
        scores=[
            [[0.05, 0.30, 0.05, 0.25, 0.20, 0.15]],
            [[0.05, 0.30, 0.05, 0.20, 0.25, 0.15]],
            [[0.05, 0.30, 0.25, 0.20, 0.15, 0.05]],
        ],
    ),
    Case(
        "cpu_split",
        "four misses, a copy 1000 ns, the CPU 700 ns an expert: link and CPU take two each, the GPU ends at 2250",
        CPU,
        ((0, [[[0, 1, 2, 3]], [[4, 5, 0, 1]]]),),
        6,
        {"slots_per_layer": 4},
        cpu_expert_ns=700,
        scores=[[[0.30, 0.25, 0.20, 0.15, 0.05, 0.05]], [[0.20, 0.15, 0.05, 0.05, 0.30, 0.25]]],
    ),
)
