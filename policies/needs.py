"""What rules need beyond ids and residency: of a trace, of other requests, of the machine, of the future."""

from __future__ import annotations

from enum import StrEnum

from traces.errors import UserError
from traces.format.trace import Trace


class Need(StrEnum):
    """One need; its value is what users read."""

    GATE_SCORES = "gate_scores"
    IMPORTANCE = "importance"
    LOOKAHEAD_BEFORE = "lookahead_before"
    LOOKAHEAD_AFTER = "lookahead_after"
    EXPERT_SIMILARITY = "expert_similarity"
    FIT = "fit"
    FORECAST = "forecast"
    CPU = "cpu"
    LOW_PRECISION = "low_precision"
    FUTURE = "future"
    ORACLE = "oracle"
    HINDSIGHT = "hindsight"
    DRAFTS = "drafts"

    @property
    def sentence(self) -> str:
        """What is needed."""
        return SENTENCES[self]

    @property
    def unless_running(self) -> str | None:
        """What a rule does that a running model cannot serve, as the end of a sentence; None if it can."""
        return UNLESS_RUNNING.get(self)


SENTENCES = {
    Need.GATE_SCORES: "scores of all experts, not only of those chosen (router_logits of the trace)",
    Need.IMPORTANCE: "scores, or the weights of the chosen experts",
    Need.LOOKAHEAD_BEFORE: "recorded gates of the next layer, applied before this layer's experts ran",
    Need.LOOKAHEAD_AFTER: "recorded gates of the next layer, applied after this layer's experts ran",
    Need.EXPERT_SIMILARITY: "measured similarity of the experts' outputs",
    Need.FIT: "requests to learn from that are not replayed (trace.fit_requests)",
    Need.FORECAST: "a trained predictor (in the package for the embedded trace; else python -m sim train-predictor)",
    Need.CPU: "the time of an expert on the CPU (cpu_memory_bytes_per_s or cpu_core_bytes_per_s of the hardware)",
    Need.LOW_PRECISION: "bits per weight of the model, and the hardware's dequantise_bytes_per_s",
    Need.FUTURE: "sees the FUTURE: when every expert is demanded next; a bound, no rule for a live system",
    Need.ORACLE: "sees the FUTURE: what later layers choose; a bound, no rule for a live system",
    Need.HINDSIGHT: "sees the FUTURE: all that the replayed requests will use; a bound, no rule for a live system",
    Need.DRAFTS: "steps that verify drafts (speculate.tokens); without them it has little or nothing to do",
}
UNLESS_RUNNING = {
    Need.EXPERT_SIMILARITY: "reads measured similarities of expert outputs, which a running model does not have",
    Need.FORECAST: "reads a trained predictor, which is evaluated over recorded traces only",
    Need.LOW_PRECISION: "executes low-precision copies of experts, and the running model has none",
    Need.FUTURE: "sees the future, which a running model does not have",
    Need.ORACLE: "sees the routing of later layers, which a running model does not have",
    Need.HINDSIGHT: "sees the whole future, which a running model does not have",
    Need.DRAFTS: "decides over the drafts of a step, and the running model decodes a token per step",
}
UNKNOWN_SCORES = (
    "full gate scores, and nothing proves the trace's router logits: its score_function, which says how weights come "
    "from them, is not set"
)
SEES_FUTURE = frozenset({Need.FUTURE, Need.ORACLE, Need.HINDSIGHT})
"""Needs that no live system can meet."""


def need_named(text: str, rule: str) -> Need:
    """The need that a rule states. Raises: UserError where there is no such need."""
    try:
        return Need(text)
    except ValueError:
        raise UserError(f"{rule}.needs={text}: must be one of {', '.join(Need)}") from None


def lacking(need: Need, trace: Trace) -> str | None:
    """What a trace lacks of a need, as a sentence goes on after `needs`; None if it lacks nothing."""
    scores, weights = trace.router_logits is not None, trace.topk_weights is not None
    known = trace.score_function is not None
    lacks = {
        Need.GATE_SCORES: (
            scores and known,
            UNKNOWN_SCORES if scores else "full gate scores, and the trace carries no router logits",
        ),
        Need.IMPORTANCE: (
            (scores and known) or weights,
            UNKNOWN_SCORES if scores else "gate scores or weights, and the trace carries neither",
        ),
        Need.LOOKAHEAD_BEFORE: (
            trace.lookahead_before is not None, "recorded lookahead logits (variant before), and the trace has none",
        ),
        Need.LOOKAHEAD_AFTER: (
            trace.lookahead_after is not None, "recorded lookahead logits (variant after), and the trace has none",
        ),
        Need.EXPERT_SIMILARITY: (
            trace.expert_similarity is not None, "measured similarities of expert outputs, and the trace has none",
        ),
    }  # fmt: skip
    has, sentence = lacks.get(need, (True, ""))
    return None if has else sentence
