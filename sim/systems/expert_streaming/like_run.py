"""Expert Streaming with the parts of a run: its requests, sizes, arithmetic and the bandwidth of its host link."""

from __future__ import annotations

from typing import Any

from sim.assembly.replay import Replay
from sim.machine.model import model_names
from traces.errors import UserError
from traces.format.trace import Trace

TAKEN = "requests, sizes, arithmetic, and the link's bandwidth spread over the memory channels"
LEFT = "policy, cache, CPU and runtime: a package loads every expert of one layer, and has no host in its way"


def like_run(config: dict[str, Any], replay: Replay) -> tuple[dict[str, Any], Trace]:
    """(the ``system`` group, the requests) where the package computes like the run's GPU and loads like its link.

    Raises: UserError where the run's sizes are of no model by name.
    """
    geometry, hardware = replay.geometry, replay.hardware
    if geometry.model not in model_names():
        raise UserError(f"system.like_run=true: {geometry.model} is no model of conf/model: choose one by model=NAME")
    dies = config["rows"] * config["columns"]
    figures = {
        "model": geometry.model,
        "tokens": replay.run.batch_size,
        "routing": "trace",
        "macs_per_cycle": hardware.gpu_flops_per_s / 2 / dies / config["clock_hz"],
        "ddr_bytes_per_s": hardware.link_bytes_per_s / dies,
        "weight_bytes": (geometry.weight_bits or 16.0) / 8.0,
        "activation_bytes": 2.0,
    }
    return config | figures, replay.trace
