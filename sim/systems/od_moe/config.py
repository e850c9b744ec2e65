"""The knobs and figures of OD-MoE: the schema of `conf/system/od_moe.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

from sim.config import validate
from sim.machine.figures import LABELS
from sim.ranges import Amount, Few, NotNegative, OneOf, Positive, Range, Share, check_ranges
from traces.errors import UserError

PREDICTIONS = ("shadow", "perfect", "random", "none")
SHADOW_BITS = {"fp16": 16.0, "int8": 8.0, "nf4": 4.5, "int4": 4.5}
"""Stored bits per weight; four bits and one 32-bit scale for 64 weights where there are scales."""


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
    weight_bits: Annotated[float, Range(1, 64)] = 32.0
    workers: Few = 8
    gpu_memory_bytes_per_s: Positive
    gpu_flops_per_s: Positive
    worker_memory_bytes_per_s: Positive
    link_latency_s: NotNegative
    link_bytes_per_s: Positive
    network_latency_s: NotNegative
    network_bytes_per_s: Positive
    launch_s: NotNegative
    host_s_per_layer: NotNegative
    shadow_host_s_per_layer: NotNegative
    prediction: Annotated[str, OneOf(*PREDICTIONS)] = "shadow"
    precision: str = "int8"
    token_period: Amount = 1
    kv_period: Amount = 1
    recall: Annotated[str, OneOf("published", "measured")] = "published"
    fixed_recall: Share | None = None
    aligned_recall_fp16: Share
    aligned_recall_int8: Share
    aligned_recall_nf4: Share
    recall_limit_unaligned: Share
    recall_limit_token: Share
    recall_limit_kv: Share
    recall_decay_steps: Positive
    abort_wrong_load: bool = True
    mini_batches: Few = 4
    overlap_prefill: bool = True
    workload: Annotated[str, OneOf("published", "trace")] = "published"
    prompt_tokens: Few | None = None
    new_tokens: Annotated[int | None, Range(2, 2**24)] = None
    seed: Amount = 0
    like_run: bool = False
    """The parts of the run were taken (`sim.systems.od_moe.like_run`)."""

    def __post_init__(self) -> None:
        check_ranges(self, "system.")
        precisions = ("fp16", "int8", "nf4") if self.recall == "published" else ("int8", "int4")
        if self.precision not in precisions:
            raise UserError(f"system.precision={self.precision}: must be one of {', '.join(precisions)}")
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
    return validate(OdMoe, values, "system."), sources
