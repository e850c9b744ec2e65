"""Settings of a real run: sizes of the synthetic model, device, link, and which steps are executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sim.ranges import Amount, Count, OneOf, Range, check_ranges
from traces.errors import UserError
from traces.format.trace import Geometry, Trace

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
DEVICES = ("cpu", "cuda")
MOST_BYTES = 1 << 48
"""Of weights of one kind; beyond, counts of weights leave 64 bits."""


@dataclass(frozen=True, slots=True)
class RealSettings:
    """Settings of real runs; sizes in numbers of weights or bytes, times in seconds.

    ``device``: ``cpu`` (slots in RAM, a copy thread) or ``cuda`` (slots in GPU memory, a copy stream). An expert is
    gate and up [2F, H] and down [H, F] with H = ``hidden_size``, F = ``expert_ffn``; attention is a dense matrix of
    about ``attention_bytes`` per layer, shared experts one expert of width ``shared_ffn``, the head a matrix of about
    ``head_bytes`` per step (both 0: none). ``link_bytes_per_s``, ``link_latency_s``: the link paced in software to
    latency + bytes / rate per copy, which is called EMULATED; null: as fast as the machine copies. ``pinned``: host
    memory of CUDA copies. ``cuda_graphs``: decode steps replay captured graphs. ``steps``: only the first n of the
    trace; ``skip_steps``: of these, the first so many are decided but not executed (rules and slots are then as after
    them); with ``decode_only`` the same goes for prefill steps. ``distinct_layers``: host weights are kept for so many
    layers and shared by the rest; null: for all.
    """

    device: Annotated[str, OneOf(*DEVICES)] = "cpu"
    dtype: Annotated[str, OneOf(*ITEM_BYTES)] = "float32"
    hidden_size: Count = 512
    expert_ffn: Count = 704
    attention_bytes: Amount = 2_097_152
    shared_ffn: Amount = 0
    head_bytes: Amount = 0
    link_bytes_per_s: Annotated[float | None, Range(1, null="an unpaced link")] = 2e9
    link_latency_s: Annotated[float, Range(0, 3600)] = 0.0
    pinned: bool = True
    cuda_graphs: bool = False
    steps: Annotated[int | None, Range(1, null="all")] = None
    skip_steps: Amount = 0
    decode_only: bool = False
    distinct_layers: Annotated[int | None, Range(1, null="all")] = None
    seed: Amount = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        row_bytes = self.hidden_size * self.item_bytes
        for name, num_bytes in {
            "hidden_size": row_bytes,
            "expert_ffn": 3 * row_bytes * self.expert_ffn,
            "attention_bytes": self.attention_bytes,
            "shared_ffn": 3 * row_bytes * self.shared_ffn,
            "head_bytes": self.head_bytes,
        }.items():
            if num_bytes > MOST_BYTES:
                given = f"{name}={getattr(self, name)}"
                if name.endswith("_ffn"):
                    given += f" with hidden_size={self.hidden_size}"
                raise UserError(f"{given}: {num_bytes:.3g} bytes of weights are more than any machine holds")
        if self.device == "cuda" and self.link_bytes_per_s is not None:
            given = f"link_bytes_per_s={self.link_bytes_per_s:g}"
            raise UserError(f"{given}: only device=cpu paces its link: add link_bytes_per_s=null")
        if self.cuda_graphs and self.device != "cuda":
            raise UserError(f"cuda_graphs=true: device={self.device} has no CUDA graphs")

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert."""
        return 3 * self.hidden_size * self.expert_ffn * self.item_bytes

    @property
    def attention_rows(self) -> int:
        """Rows of the dense matrix that stands for attention."""
        return self._rows(self.attention_bytes)

    @property
    def head_rows(self) -> int:
        return self._rows(self.head_bytes)

    def _rows(self, num_bytes: int) -> int:
        return -(-num_bytes // (self.hidden_size * self.item_bytes))

    @property
    def paced(self) -> bool:
        return self.link_bytes_per_s is not None

    @property
    def label(self) -> str:
        """How the times of such a run are known."""
        return "EMULATED" if self.paced else "MEASURED"

    def geometry(self, trace: Trace) -> Geometry:
        """The sizes that such a run has under the routing of ``trace``: give it to ``sim.assembly.replay.assemble``."""
        routed, row_bytes = trace.geometry, self.hidden_size * self.item_bytes
        return Geometry(
            model=f"synthetic experts of {self.expert_bytes} bytes under the routing of {routed.model}",
            num_layers=routed.num_layers,
            num_experts=routed.num_experts,
            top_k=routed.top_k,
            expert_bytes=(self.expert_bytes,) * routed.num_layers,
            attention_bytes=(self.attention_rows * row_bytes,) * routed.num_layers,
            shared_bytes=(3 * self.shared_ffn * row_bytes,) * routed.num_layers,
            other_bytes=self.head_rows * row_bytes,
            kv_bytes_per_token=0,
            hidden_size=0,  # no attention to earlier tokens
            weight_bits=8.0 * self.item_bytes,
        )
