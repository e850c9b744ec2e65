"""What a reader of a result has to know, in sentences."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.base import Prediction
from policies.needs import Need
from sim.assembly.fragility import fragile_trace
from sim.assembly.replay import Notes, Replay, lookahead_tables
from sim.engine.decision.device import decides
from sim.formatting import size
from sim.machine.drafts import describe_drafts
from sim.machine.machine import Machine
from traces.format.trace import Trace

REJECTED = {
    "recorded": "a rejected draft is another token than that of the recorded text, whose routing stands in for its "
    "own: the next steps want the same experts, which flatters drafts where experts stream (speculate.rejected)",
    "other": "a rejected draft takes the routing of another token of its request, so that little of what it fetches is "
    "wanted next (speculate.rejected)",
}


def describe_replay(replay: Replay) -> Notes:
    """What is ESTIMATED in a replay, and warnings about it."""
    trace, pools = replay.trace, replay.pools
    estimated: list[str] = []
    warnings: list[str] = []
    fewest = int((pools.capacity[pools.pool_of] // np.maximum(pools.size, 1)).min())
    if replay.policy.residency == "cache" and fewest < trace.top_k:
        warnings.append(f"only {fewest} slots for a layer, below top_k={trace.top_k}: its steps overflow")
    memory_bytes = replay.hardware.gpu_memory_bytes * len(replay.turns)
    if pools.total_bytes > memory_bytes:
        held, has = pools.total_bytes / 1e9, memory_bytes / 1e9
        warnings.append(f"the capacity of {held:.1f} GB is more than the {has:.1f} GB of {replay.hardware.name}")
    if replay.spec.host is not None:
        estimated += describe_tiers(replay)
    if replay.setup.devices.splits:
        estimated += describe_split(replay)
    for number, turn in enumerate(replay.turns, 1):
        said = "" if len(replay.turns) == 1 else f"GPU {number}: "
        warnings += [] if turn.room is None else [said + word for word in turn.room.words()]
    if disturbed := not_quiet(replay.setup.machine):
        warnings.append(
            f"measured while the machine was NOT QUIET: {', '.join(disturbed)}; calibrate again when nothing else runs"
        )
    if not trace.ranked and trace.topk_weights is None and trace.router_logits is None:
        warnings.append("experts of a token are not ranked: recency inside a step follows the stored order")
    function = (trace.score_function or "softmax").partition("_")[0]
    if Need.GATE_SCORES in replay.policy.needs() and function != "softmax":
        estimated.append(f"gate scores are the softmax of the logits, while this model's router uses a {function}")
    if replay.durations.unmodelled and replay.timed:
        parts = ", ".join(replay.durations.unmodelled)
        warnings.append(f"left out of the time, because the model's sizes are not known: {parts}")
    for table in lookahead_tables(replay.policy):
        estimated.append("open loop: predictions are the recorded ones and do not depend on what was resident")
        if getattr(trace, table).truncated:
            estimated.append("lookahead scores outside the recorded best share the remaining mass equally")
    if replay.spec.has_scores and trace.router_logits is not None and trace.router_logits.truncated:
        estimated.append("gate scores outside the recorded best share the remaining mass equally")
    if replay.reader.forecaster is not None:
        estimated.append("predictions take no time: that of the trained network is not counted")
        warnings.append(describe_origin(replay.reader.forecaster.origin, trace))
    if not replay.timed and lookahead_tables(replay.policy):
        warnings.append("replay without a clock: every prefetch counts as in time")
    if "statement" in trace.provenance:
        estimated.append(f"routing of {trace.geometry.model}: {trace.provenance['statement']}")
    if replay.schedule.as_decode:
        estimated.append("rows of a teacher-forced pass count as decode steps (trace.as_decode=true)")
    if Need.DRAFTS in replay.policy.needs() and not replay.setup.speculate.tokens:
        rule = replay.policy.needs()[Need.DRAFTS]
        warnings.append(f"{rule} decides over the drafts of a step, and there are none: give speculate.tokens=N")
    if replay.setup.speculate.tokens:
        estimated.append(REJECTED[replay.setup.speculate.rejected])
        if replay.timed:
            estimated.append(describe_drafts(replay.setup.speculate, replay.geometry))
    warnings += [str(note) for note in trace.provenance.get("notes", [])]
    return Notes((*estimated,), (*warnings, *fragile_trace(trace)))


def describe_split(replay: Replay) -> list[str]:
    """What is ESTIMATED where layers are split over GPUs."""
    said = ["two GPUs: what both links take of host memory at once is left out"]
    if decides(replay.policy.prediction, Prediction, "predict"):
        said.append(
            "two GPUs: rules that look ahead see the layers of their own GPU, so that nothing is predicted for the "
            "first layer of the second"
        )
    if replay.spec.host is not None:
        said.append("two GPUs: each has its share of host memory for its layers")
    return said


def describe_tiers(replay: Replay) -> list[str]:
    """What is ESTIMATED where storage lies behind memory."""
    host = replay.spec.host
    assert host is not None
    if host.reading.peer is not None:
        held = f"{size(float(host.capacity))} of {size(float(replay.pools.model_bytes))} of experts"
        return [
            f"a second GPU holds {held}, {'full' if host.warm else 'empty'} at the start; what it lacks comes from "
            "host memory through it, and the first GPU's own link to host memory is left out"
        ]
    said = ["storage reads experts at rates between those of its table, one after the other"] if replay.timed else []
    if host.capacity:
        whole = replay.pools.model_bytes
        said.append(
            f"host memory holds {size(float(host.capacity))} of {size(float(whole))} of experts, "
            f"{'full' if host.warm else 'empty'} at the start; the rest is in storage"
        )
    if host.reading.sequential:
        said.append("host.mode=page_cache: an LRU of whole experts stands in for the kernel's lists of pages")
    return said


def not_quiet(machine: Machine) -> list[str]:
    """Figures that `calibrate` took from disturbed samples, as GROUP.FIGURE of NAME."""
    files = {"hardware": machine.hardware, "runtime": machine.runtime}
    return [
        f"{group}.{figure} of {file.name}"
        for group, file in files.items()
        for figure, source in file.sources.items()
        if "NOT QUIET" in source
    ]


def describe_origin(origin: dict[str, Any], trace: Trace) -> str:
    """What the trained predictor of a replay learned from, and how often it was right elsewhere."""
    same = trace.content_hash.partition("/")[0] == origin["trace_hash"]
    trained = [metrics for name, metrics in sorted(origin["metrics"].items()) if name.startswith("trained")]
    recall = trained[0]["decode"]["recall_at_k"] if trained else None
    found = "" if recall is None else f"; it found {recall:.1%} of the experts of the decode rows it was tested on"
    return (
        f"predictor {origin['checkpoint']} ({origin['kind']}): trained on {len(origin['train'])} other requests of "
        f"{'this' if same else 'another'} trace ({origin['trace_hash'][:12]}), stopped by {len(origin['validation'])} "
        f"more{found}"
    )
