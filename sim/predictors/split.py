"""Which requests a predictor learns from, and the refusal to replay one of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sim.config import TraceConfig
from traces.errors import UserError
from traces.format.mapped import load
from traces.format.trace import Trace

FINGERPRINT_CHARS = 16


@dataclass(frozen=True, slots=True)
class Split:
    """Requests of one trace by their use, as numbers in the trace; the three never overlap."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def learned(self) -> tuple[int, ...]:
        """The requests that shaped the predictor: those trained on and those that decided when to stop."""
        return tuple(sorted(self.train + self.validation))


def split_requests(num_requests: int, config: TraceConfig, validation_share: float, seed: int) -> Split:
    """Learn from the last requests (``trace.fit_requests``), test on the first (``trace.requests``).

    Without fit_requests: those that ``trace.requests`` leaves out, else the last half. So the same ``trace.`` overrides
    let ``run`` replay the test requests and nothing else.

    Raises: UserError where a part would be empty.
    """
    if config.sample is not None:
        raise UserError(
            f"trace.sample={config.sample}: a predictor is tested on the first requests and learns from the last: give "
            "trace.requests and trace.fit_requests"
        )
    held = config.fit_requests
    if held is None:
        held = num_requests - config.requests if config.requests is not None else num_requests // 2
    if not 2 <= held < num_requests:
        raise UserError(
            f"trace.fit_requests={held}: a predictor learns from at least 2 requests, of which one decides when to "
            f"stop, and is tested on at least 1 more; the trace has {num_requests}"
        )
    tested = num_requests - held if config.requests is None else config.requests
    if tested > num_requests - held:
        raise UserError(
            f"trace.requests={tested}: the trace has {num_requests} requests of which trace.fit_requests={held} "
            "are learned from"
        )
    order = np.random.default_rng(seed).permutation(held) + (num_requests - held)
    watched = min(max(1, round(validation_share * held)), held - 1)
    train, validation = sorted(order[watched:].tolist()), sorted(order[:watched].tolist())
    return Split(tuple(train), tuple(validation), tuple(range(tested)))


def fingerprint(trace: Trace, request: int) -> str:
    """Names a request by its routing, whatever file it stands in: 16 hex digits of the sha256 of its expert ids."""
    first, last = trace.request_offsets[request : request + 2]
    ids = load(trace.topk_ids[first:last]).astype("<u2")
    return hashlib.sha256(str(ids.shape).encode() + ids.tobytes()).hexdigest()[:FINGERPRINT_CHARS]


def learned_requests(trace: Trace, training: dict[str, Any]) -> list[int]:
    """The requests of ``trace`` that a predictor learned from, wherever they stood then."""
    learned = set(training["fingerprints"])
    return [request for request in range(trace.num_requests) if fingerprint(trace, request) in learned]


def count_learned_last(trace: Trace, training: dict[str, Any]) -> int:
    """How many requests a predictor learned from if they are the last ones of ``trace`` and not all of it, else 0."""
    learned, total = learned_requests(trace, training), trace.num_requests
    last = learned == list(range(total - len(learned), total))
    return len(learned) if last and len(learned) < total else 0


def refuse_learned(trace: Trace, training: dict[str, Any], name: str) -> None:
    """Raises UserError if ``trace`` holds a request that the predictor of checkpoint ``name`` learned from."""
    known = learned_requests(trace, training)
    if not known:
        return
    same = trace.content_hash.partition("/")[0] == training["trace_hash"]
    held = training["num_requests"] - min(training["train"] + training["validation"])
    way = f"hold them out with trace.fit_requests={held}" if same else "replay other requests"
    raise UserError(
        f"policy.prediction.checkpoint={name}: the predictor learned from {len(known)} of the {trace.num_requests} "
        f"requests to replay, the first of them number {known[0]}: {way}"
    )


def mixed(trace: Trace, seed: int) -> Trace:
    """The same requests in an order drawn from ``seed``, for traces sorted by data set."""
    order = np.random.default_rng(seed).permutation(trace.num_requests)
    notes = [*trace.provenance.get("notes", []), f"Requests are in an order drawn from seed {seed}."]
    part = trace.take_requests(order, "mixed")
    return replace(part, provenance=part.provenance | {"notes": notes}, content_hash="")
