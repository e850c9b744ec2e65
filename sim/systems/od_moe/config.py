"""The knobs and figures of OD-MoE: the schema of `conf/system/od_moe.yaml`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from sim.config import validate
from sim.machine.hardware import LABELS
from traces.errors import UserError

PREDICTIONS = ("shadow", "perfect", "random", "none")
SHADOW_BITS = {"fp16": 16.0, "int8": 8.0, "nf4": 4.5, "int4": 4.5}
"""Stored bits per weight; four bits and one 32-bit scale for 64 weights where there are scales."""

_POSITIVE = ("gpu_memory_bytes_per_s", "gpu_flops_per_s", "worker_memory_bytes_per_s", "link_bytes_per_s")
_TIMES = ("link_latency_s", "network_latency_s", "launch_s", "host_s_per_layer", "shadow_host_s_per_layer")
_SHARES = (
    "fixed_recall",
    "aligned_recall_fp16",
    "aligned_recall_int8",
    "aligned_recall_nf4",
    "recall_limit_unaligned",
    "recall_limit_token",
    "recall_limit_kv",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OdMoe:
    """A main node, a shadow node and ``workers`` workers, each with its own host link, on one network.

    `weight_bits`: stored bits of experts and of everything on the main node. `link_*`: copy of an expert from the host
    memory of a worker. `network_*`: one message; every node sends and receives at the rate. `launch_s`: launches of an
    expert. `host_s_per_layer`: the main node's host time in a layer; `shadow_host_s_per_layer`: that of a model library
    which keeps all experts on GPUs, the shadow node's too. `token_period`, `kv_period`: steps between alignments, 0 for
    never. `recall_limit_*`: where recall ends when nothing, only tokens, only K and V are aligned;
    `recall_decay_steps`: in how many steps the distance to it falls to 1/e. For `abort_wrong_load`, `mini_batches` and
    `overlap_prefill` the paper gives no value that is known here.

    Raises: UserError that names the field out of range.
    Source: OD-MoE, https://arxiv.org/abs/2512.03927.
    """

    name: str = "od_moe"
    model: str = "mixtral_8x7b"
    weight_bits: float = 32.0
    workers: int = 8
    gpu_memory_bytes_per_s: float
    gpu_flops_per_s: float
    worker_memory_bytes_per_s: float
    link_latency_s: float
    link_bytes_per_s: float
    network_latency_s: float
    network_bytes_per_s: float
    launch_s: float
    host_s_per_layer: float
    shadow_host_s_per_layer: float
    prediction: str = "shadow"
    precision: str = "int8"
    token_period: int = 1
    kv_period: int = 1
    recall: str = "published"
    fixed_recall: float | None = None
    aligned_recall_fp16: float
    aligned_recall_int8: float
    aligned_recall_nf4: float
    recall_limit_unaligned: float
    recall_limit_token: float
    recall_limit_kv: float
    recall_decay_steps: float
    abort_wrong_load: bool = True
    mini_batches: int = 4
    overlap_prefill: bool = True
    workload: str = "published"
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*_POSITIVE, "network_bytes_per_s", "recall_decay_steps"):
            _range(name, getattr(self, name), 0.0, math.inf, above=True)
        for name in _TIMES:
            _range(name, getattr(self, name), 0.0, math.inf)
        for name in _SHARES:
            _range(name, getattr(self, name), 0.0, 1.0)
        for name, least in (("workers", 1), ("mini_batches", 1), ("token_period", 0), ("kv_period", 0), ("seed", 0)):
            _range(name, getattr(self, name), least, math.inf)
        _range("weight_bits", self.weight_bits, 1, 64)
        _range("prompt_tokens", self.prompt_tokens, 1, math.inf)
        _range("new_tokens", self.new_tokens, 2, math.inf)
        _one_of("prediction", self.prediction, PREDICTIONS)
        _one_of("recall", self.recall, ("published", "measured"))
        _one_of(
            "precision", self.precision, ("fp16", "int8", "nf4") if self.recall == "published" else ("int8", "int4")
        )
        _one_of("workload", self.workload, ("published", "trace"))
        if (self.prompt_tokens is None) != (self.new_tokens is None):
            raise UserError(
                f"system.prompt_tokens={self.prompt_tokens} and system.new_tokens={self.new_tokens}: give both, or none"
            )

    @property
    def aligned_recall(self) -> float:
        """Published recall with token, K and V aligned in each step."""
        return float(getattr(self, f"aligned_recall_{self.precision}"))


def system_from_config(config: dict[str, Any]) -> tuple[OdMoe, dict[str, str]]:
    """The system and the sources of its figures, from the plain `system` group.

    Raises: UserError for an unknown or missing field, a wrong type, a value out of range, or a source without a label.
    """
    values = dict(config)
    sources = {str(key): str(value) for key, value in (values.pop("sources", None) or {}).items()}
    known = {field.name for field in fields(OdMoe)}
    for name, source in sources.items():
        if name not in known or source.split(":", 1)[0] not in LABELS:
            raise UserError(f"system.sources.{name}={source!r}: a figure, and a source that begins with {LABELS}")
    missing = [field.name for field in fields(OdMoe) if field.name not in values and _required(field)]
    if missing:
        raise UserError(f"system.{missing[0]} is missing: state it, with its source")
    return validate(OdMoe, values, "system."), sources


def _required(field: Any) -> bool:
    from dataclasses import MISSING

    return field.default is MISSING


def _range(name: str, value: float | None, least: float, most: float, above: bool = False) -> None:
    if value is None:
        return
    if not math.isfinite(value) or not least <= value <= most or (above and value == least):
        bound = f"above {least:g}" if above else f"at least {least:g}"
        raise UserError(f"system.{name}={value}: must be {bound}" + ("" if most == math.inf else f", at most {most:g}"))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"system.{name}={value}: must be one of {', '.join(allowed)}")
