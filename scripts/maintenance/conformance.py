"""Writes the conformance vectors from the SimPy engine: python -m scripts.maintenance.conformance [FOLDER]

FOLDER: where to; default sim/conformance/vectors. A test replays every vector on both engines and compares with the
committed files, whose hits and times are worked out by hand in `about` where that is short.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.maintenance.conformance_cases import COPY_NS, EXPERT_BYTES, PLAIN, RULES, Case
from scripts.maintenance.conformance_drafts import DRAFTED
from sim.conformance.judge import VECTORS
from sim.engine.clocks.timeline_log import LOG_OUTCOME
from sim.timeline.slices import OUTCOMES
from traces.format.trace import PREFILL
from traces.whole_file import write_whole

CASES = (*PLAIN, *DRAFTED)


def answers(case: Case, engine: str = "simpy") -> dict[str, Any]:
    """Steps and totals of a case: outcome of every demanded expert, residents afterwards, bytes and times."""
    replay = case.replay(engine)
    layers, experts = replay.trace.num_layers, replay.trace.num_experts
    steps = []
    for result in replay.blocks():
        outcomes: list[dict[str, str]] = [{} for _ in range(layers)]
        for kind, key, _, _, extra in replay.engine.take_log().tolist():
            if kind == LOG_OUTCOME:
                outcomes[key // experts][str(key % experts)] = OUTCOMES[extra]
        resident = replay.device.residents()
        steps.append(
            {
                "tokens": result.block.rows.tolist(),
                "phase": "prefill" if int(result.block.phase[0]) == PREFILL else "decode",
                "outcomes": [dict(sorted(one.items(), key=lambda item: int(item[0]))) for one in outcomes],
                "resident_after": [np.flatnonzero(resident[layer]).tolist() for layer in range(layers)],
                "copied_bytes": int(result.count("copied_bytes")[0]),
                "latency_ns": int(result.latency_ns[0]),
            }
            | ({} if case.drafts is None else {"kept": result.block.rows[result.block.accepted()].tolist()})
        )
    found = [word for step in steps for layer in step["outcomes"] for word in layer.values()]
    totals = {word: found.count(word) for word in OUTCOMES} | {"demanded": len(found)}
    totals |= {name: sum(step[name] for step in steps) for name in ("copied_bytes", "latency_ns")}
    return {"steps": steps, "totals": totals}


def vector(case: Case) -> dict[str, Any]:
    """A case and its answers as another tool reads them."""
    requests: list[dict[str, Any]] = [{"prompt": prompt, "ids": ids} for prompt, ids in case.requests]
    if case.drafts is not None:
        requests = [one | {"drafts": drafts} for one, drafts in zip(requests, case.drafts, strict=True)]
    machine = {"copy_ns": COPY_NS, "expert_ns": case.expert_ns, "layer_ns": case.layer_ns, "staging_slots": 2}
    machine |= {} if case.cpu_expert_ns is None else {"cpu_expert_ns": case.cpu_expert_ns}
    trace: dict[str, Any] = {"num_experts": case.num_experts, "expert_bytes": EXPERT_BYTES, "requests": requests}
    trace |= {name: value for name in ("scores", "lookahead") if (value := getattr(case, name)) is not None}
    return {
        "name": case.name,
        "about": case.about,
        "label": "SIMULATED, exact in the model",
        "trace": trace,
        "policy": case.policy.name,
        "rule": RULES[case.policy.name],
        "cache": case.cache,
        "batch_size": case.batch_size,
        "machine": machine,
        "answers": answers(case),
    }


def main(argv: Sequence[str]) -> None:
    """Write every vector."""
    folder = Path(argv[0]) if argv else VECTORS
    for case in CASES:
        write_whole(folder / f"{case.name}.json", (json.dumps(vector(case)) + "\n").encode())
        print(f"wrote {folder / case.name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
