"""Folders of real, small replays, as `python -m sim run -m` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sim.metrics.step_table import StepTable
from sim.results.outputs import write_run
from sim.run.what_if import what_if
from tests.support.random_traces import random_trace
from tests.support.replays import machine, replay_of

TARGETS = {
    "lru": {"eviction": {"_target_": "policies.eviction.lru.Lru"}, "residency": "cache"},
    "importance": {
        "eviction": {"_target_": "policies.eviction.score_window.ScoreWindow"},
        "substitution": {"_target_": "policies.substitution.score_band.ScoreBand", "alpha": 0.35},
        "prefetch": {"_target_": "policies.prefetch.top_score.TopScore"}, "residency": "cache",
    },
    "belady": {"eviction": {"_target_": "policies.eviction.belady.Belady"}, "residency": "cache"},
    "all_resident": {"eviction": {"_target_": "policies.eviction.lru.Lru"}, "residency": "all"},
}  # fmt: skip


def write_replay(folder: Path, policy: str, *, slots: int = 3, ask: bool = False, **changed: Any) -> Path:
    """One replay of six requests on a machine whose copies take 20 us; `changed` goes into its provenance."""
    trace = random_trace(0, num_layers=2, prompts=(3,) * 6, decodes=(6,) * 6)
    hardware = machine(link_bytes_per_s=5e7, host_s_per_layer=1e-5, gpu_memory_bytes_per_s=1e9)
    replay = replay_of(trace, policy, hardware, slots_per_layer=slots, engine="compiled")
    table = StepTable(replay)
    table.run()
    config = {
        "trace": {"embedded": "demo", "path": None}, "policy": TARGETS[policy] | {"name": policy},
        "cache": {"fraction": None, "slots_per_layer": slots, "bytes": None},
        "hardware": {"name": "test", "label": "ESTIMATED", "link_bytes_per_s": 5e7, "link_latency_s": 0.0,
                     "sources": {"link_bytes_per_s": "ESTIMATED: invented for tests"}},
    }  # fmt: skip
    write_run(folder, replay, table, config, 0.5)
    path = folder / "provenance.json"
    known = json.loads(path.read_text())
    words = [f"policy={policy}", f"cache.slots_per_layer={slots}"]
    path.write_text(json.dumps(known | {"overrides": words, "hardware": "test", "key": folder.name} | changed))
    if ask:
        (folder / "what_if.json").write_text(json.dumps(what_if(replay)))
    return folder
