"""The compiled clock: when GPU, link and CPU of one device are where, and what each thing takes."""

from __future__ import annotations

from policies.state import Int8, Int8x2
from sim.engine.decision.cache import Int8x3
from sim.engine.decision.layout import struct_of
from sim.engine.decision.struct_views import caster


class Clock:
    """What the recurrence reads and writes; times in whole ns unless a name says otherwise. Flags are 0 or 1."""

    write_back: int
    """How victims are written back: BACK_NONE, BACK_SERIAL or BACK_OVERLAP."""
    is_lean: int
    """Decode steps of one token may take the short way of ``clocks.lean``."""
    logs: int
    """A timeline is kept."""
    call_ns: int
    """Host time to issue a copy."""
    expert_launch_ns: int
    before_lookup_ns: int
    """Constants of a layer ahead of its lookup."""
    after_experts_ns: int
    """Constants of a layer at its end."""
    kv_ps_per_token: int
    pair_ps: int
    cpu_first: int
    """The GPU's experts follow the CPU's."""
    after_last_copy: int
    """Loaded experts run once the last of the layer has arrived."""

    reads: int
    """Storage reads experts that host memory lacks."""

    now_ns: int
    """Time of the GPU."""
    link_state: int
    """LINK_IDLE, LINK_COPY or LINK_BLOCKED."""
    link_begin_ns: int
    link_end_ns: int
    link_wait_ns: int
    """Of the time from ``link_begin_ns`` to ``link_end_ns``: waiting for storage."""
    back_end_ns: int
    """When the victims of the copy on the link are back on the host."""
    cpu_left: int
    """Experts that the CPU has still to finish in this layer step."""
    cpu_next: int
    """Index in ``cpu_queue`` of the one it computes."""
    cpu_end_ns: int
    cpu_wait_ns: int
    """What the CPU has waited for storage in this layer step."""
    storage_end_ns: int
    """When storage has read all that it was asked for."""
    storage_busy_ns: int
    link_busy_ns: int
    cpu_busy_ns: int
    log_size: int

    copy_ns: Int8x3
    """[3, 2, L] by kind of copy, whether the CPU computes, layer."""
    cpu_ns: Int8x3
    """[2, L, B+1] by whether the link copies, layer, tokens; 0 layers if the hardware has no CPU."""
    cpu_transfer_ns: Int8
    """[B+1] activations of a layer to the CPU and back."""
    expert_ns: Int8x2
    """[L, B+1] without launches."""
    shared_ns: Int8x2
    """[L, B+1]"""
    attention_ns: Int8x2
    """[L, B+1] without K and V."""
    head_ns: Int8
    """[B+1]"""
    draft_parts_ns: Int8x2
    """[requests + 1, parts] one pass of the draft."""
    layer_parts_ns: Int8
    """[parts] constants of a layer, by part."""
    after_parts_ns: Int8
    """[parts] those of them that follow its experts."""
    read_ns: Int8
    """[L] an expert; empty where ``reads`` is 0, like the next two."""
    lead_ns: Int8
    """[L]"""
    piece_ns: Int8
    """[L]"""
    ready_ns: Int8
    """[E] when storage has read what this layer step asked it for."""
    read_late_ns: Int8
    """[E] of what arrived in this layer step: what its copy waited for storage."""
    arrived_at: Int8
    """[E] ``State.now`` of the layer step in which the expert arrived."""
    parts: Int8
    """Time of the step by part, see ``sim.machine.parts.PARTS``."""
    log: Int8x2
    """[n, 5] slices of the timeline; 0 rows: none is kept."""


CLOCK = struct_of(Clock)
as_clock = caster(CLOCK, Clock)
