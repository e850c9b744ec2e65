"""What both engines share of the clock: the ways to write victims back, and the kinds of a timeline's slices."""

from __future__ import annotations

from sim.machine.parts import PARTS

BACK_NONE, BACK_SERIAL, BACK_OVERLAP = range(3)
"""How victims are written back: not at all, before their replacement's copy, or beside it on the engine of the other
direction."""
WRITE_BACK = {"none": BACK_NONE, "serial": BACK_SERIAL, "overlap": BACK_OVERLAP}

(
    LOG_LAYER,
    LOG_EXPERT,
    LOG_COPY,
    LOG_PREFETCH,
    LOG_BACK,
    LOG_CPU,
    LOG_PART,
    LOG_OUTCOME,
    LOG_QUEUE,
    LOG_HELD,
    LOG_STAND_IN,
    LOG_DRAFT,
    LOG_READ,
    LOG_HANDOVER,
) = range(14)
"""Kinds of slices in a timeline, rows (kind, what, begin_ns, end_ns, extra): a layer until its lookup (layer, tokens);
an expert on the GPU (key layer * E + expert, tokens); a demand copy (key, kind of copy + STAGED_COPY if it goes to
a staging slot) and a prefetch copy (key, kind of copy); the write-back of victims (key of the expert that takes
their place); an expert on the CPU (key); what else the GPU's time goes to (key of the expert it waits for, else of
the layer's first; part, see ``sim.machine.parts.PARTS``; ATTENTION is the head). What GPU, layers and experts take
covers the clock without a gap. At the instant of a lookup: what becomes of a demanded expert (key, outcome); copies
queued (demand, prefetch); experts that occupy slots, arriving ones included, and their bytes; an expert that is
executed in another's place (key of the other, expert), each pair once, after the outcomes. What storage reads (key, 1
if a prefetch asks for it), from when it does; the copy of what it reads is shown without what it waits for. Ahead of
the first layer of a step: its drafts (passes of the draft; part). Between GPUs, in a log of its own: activations
handed over (number of the GPU that takes them, tokens)."""
STAGED_COPY = 4


def log_rows(num_layers: int, num_experts: int, chunks: int, ranks: int) -> int:
    """Most rows that one step can add to the timeline: every expert read, copied and written back twice, and
    executed.

    ``ranks``: (token, rank) pairs of a layer that may be executed by another expert than the one routed to.
    """
    return len(PARTS) + num_layers * (8 + num_experts * (8 + 2 * chunks) + min(ranks, num_experts * num_experts))
