"""A speculating replay beside the same one that drafts nothing: what a verifying step costs, and what would pay."""

from __future__ import annotations

from sim.assembly.replay import Replay
from sim.config import SpeculateConfig
from sim.metrics.drafts import break_even
from sim.metrics.step_table import Forget, Metrics, StepTable


def beside_plain(replay: Replay, ran: StepTable) -> Metrics:
    """The metrics of ``registry.BESIDE_PLAIN`` of a replay that ran; none where it drafts nothing or has no clock.

    The other replay is of the same requests, policy and machine, on the compiled engine.
    """
    speculate = replay.setup.speculate
    if not speculate.tokens or not replay.timed:
        return {}
    plain = StepTable(replay.assemble_again(speculate=SpeculateConfig()), Forget()).run()
    verifying_ns, plain_ns = ran.decode_step_ns(), plain.decode_step_ns()
    if not verifying_ns or not plain_ns:
        return {"verify_over_plain": None, "speedup_over_plain": None, "break_even_acceptance": None}
    ratio = verifying_ns / plain_ns
    return {
        "verify_over_plain": ratio,
        "speedup_over_plain": ran.tokens_per_decode_step() / plain.tokens_per_decode_step() / ratio,
        "break_even_acceptance": break_even(ratio, speculate.tokens, speculate.decay),
    }
