"""The cases of steps that verify drafts, which scripts.maintenance.conformance replays beside the others."""

from __future__ import annotations

from scripts.maintenance.conformance_cases import LRU, Case, letters
from sim.assembly.catalogue import load_policy

DRAFTED = (
    Case(
        "lru_drafts_rejected",
        "A B A C A with three slots, each step with the next token and up to two drafts, none of them accepted: steps "
        "A B A, B A C, A C A, C A, A. Two misses take 2 x 1000 + 250, then C arrives at 1000 while B and A run, later "
        "all are there: 2250, 1250, 500, 500, 250 ns",
        LRU,
        ((0, letters(*"ABACA")),),
        4,
        {"slots_per_layer": 3},
        drafts=(((2, 0), (2, 0), (2, 0), (1, 0), (0, 0)),),
    ),
    Case(
        "lru_drafts_accepted",
        "the same with all drafts accepted: steps A B A and C A, 2250 and 1250 ns for five tokens",
        LRU,
        ((0, letters(*"ABACA")),),
        4,
        {"slots_per_layer": 3},
        drafts=(((2, 2), None, None, (1, 1), None),),
    ),
    Case(
        "lru_drafts_evict",
        "A B C B with two slots, a draft in the first and in the second step, both rejected: steps A B, B C, C, B. The "
        "second step's draft C throws A out, and C and B hit; who forgets rejected drafts fetches B, C and B later",
        LRU,
        ((0, letters(*"ABCB")),),
        4,
        drafts=(((1, 0), (1, 0), (0, 0), (0, 0)),),
    ),
    Case(
        "lru_drafts_batch",
        "A B C A and B C D decode together with three slots and a draft each: steps A B + B C, of which the first "
        "request keeps both and the second one; C A + C D, of which C and C D stay; A. Three misses take 3250, in the "
        "second step D takes the slot of B and arrives at 1000: 1250; then 250",
        LRU,
        ((0, letters(*"ABCA")), (0, letters(*"BCD"))),
        4,
        {"slots_per_layer": 3},
        batch_size=2,
        drafts=(((1, 1), None, (1, 0), (0, 0)), ((1, 0), (1, 1), None)),
    ),
    Case(
        "belady_admit_drafts",
        "A and B are resident, C A B with a rejected draft in the second step: steps C, A B, B. At C both are used in "
        "the very next step, B as a draft, so A goes as the lower number; who looks for kept tokens only throws B out",
        load_policy("belady_admit"),
        ((0, letters(*"CAB")),),
        4,
        {"slots_per_layer": 2, "start": "warm"},
        drafts=(((0, 0), (1, 0), (0, 0)),),
    ),
)
