"""When what comes through two tiers piece by piece is there. Engines compile it, and call it as it is."""

from __future__ import annotations


def arrival(begin_ns: int, copy_ns: int, ready_ns: int, lead_ns: int, piece_ns: int) -> int:
    """When an expert is on the GPU whose copy may begin at ``begin_ns`` and which storage has read at ``ready_ns``.

    Its pieces arrive in host memory at equal distances, the first ``lead_ns`` before the last, and each goes on over
    the link once it is there and the link has sent the one before: the copy ends ``copy_ns`` after it could begin with
    a piece, or the time of one piece after the last was read, whichever is later (a flow shop of two machines with
    equal pieces). With nothing to read, ``ready_ns`` below ``begin_ns``, that is begin_ns + copy_ns.
    """
    return max(begin_ns + copy_ns, ready_ns - lead_ns + copy_ns, ready_ns + piece_ns)
