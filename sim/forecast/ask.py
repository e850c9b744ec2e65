"""What is to be run, where; a plan for it, or why there is none; and what all plans share."""

from __future__ import annotations

from dataclasses import dataclass

from sim.forecast.machines import ForecastMachine, files_alike
from sim.forecast.models import ForecastModel
from sim.forecast.routing import Routing
from sim.machine.model import embedding_bytes, geometry, read_every_token_bytes
from sim.validation.published.corpus.placement import Placement
from sim.validation.published.corpus.rule import KTRANSFORMERS, Setting
from sim.validation.published.corpus.tables import COLUMNS, measurement_of


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be run, where, and with what in memory."""

    model: ForecastModel
    machine: ForecastMachine
    routing: Routing | None
    context: int
    workspace_bytes: float
    prompt: int = 512
    """Tokens of a prompt whose first token is waited for."""
    placement: str | None = None
    """The one plan that is asked for, in the words of the corpus; None: whatever is best."""

    @property
    def layers(self) -> int:
        return self.model.dimensions.num_layers

    @property
    def layer_bytes(self) -> list[int]:
        """Of all experts of each MoE layer."""
        return [self.model.dimensions.num_experts * size for size in self.model.expert_bytes]

    @property
    def kv_bytes(self) -> int:
        sizes = self.model.dimensions
        return (sizes.stored_kv_bytes or 0) * sizes.num_layers * self.context

    def always_bytes(self, embedding: bool) -> int:
        """Of everything that is no routed expert; llama.cpp keeps the input embedding in host memory."""
        rest = read_every_token_bytes(geometry(self.model.dimensions))
        return rest + (embedding_bytes(self.model.dimensions) if embedding else 0)

    def room(self, embedding: bool = True) -> float:
        """Bytes of the GPU's memory that are left for experts."""
        taken = self.always_bytes(embedding) + self.kv_bytes + self.workspace_bytes
        return self.machine.gpu_bytes - taken


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run the model, ready to be predicted."""

    runtime: str
    what: str
    flags: str
    setting: Setting
    gpu_bytes: float
    host_bytes: float
    hit_rate: float | None = None
    """Of a cache, from replays of the card's routing; None where no routing counts."""
    with_fewer_hits: Setting | None = None
    """The same where the routing's hits are one standard error lower."""
    layers: tuple[float, ...] = ()
    """[top_k + 1] share of layers that miss so many of their experts, which the CPU computes; empty: all are alike."""
    fewer_layers: tuple[float, ...] = ()
    """So with fewer hits."""
    checked: bool = True
    """Published rows may say how far such plans are off, see ``predict.is_checked``; hits from a card never were."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A runtime that was asked for, and why it has no such plan."""

    runtime: str
    why: str


Found = list[Plan | Refusal]


def served(ask: Ask) -> int:
    """Tokens that a server is told to make room for: 0 would be the model's whole context to llama-server."""
    return ask.context or BENCH_CONTEXT


BENCH_CONTEXT = 512
"""Room for an answer where context=0 asks for what a bench measures."""


def gib(size: float) -> str:
    """Bytes of a GPU's memory, in the binary units that its maker calls GB."""
    return f"{size / 2**30:.2f} GiB"


CELLS = {
    "row_id": "plan", "series_id": "plan", "machine_id": "plan", "model": "plan", "runtime": "plan",
    "decode_tok_s": "1", "confidence": "high", "source": "forecast",
}  # fmt: skip
"""What a row must hold; a plan has no rate yet, and its 1 token/s is never looked at."""


def setting_for(ask: Ask, runtime: str, placement: Placement, software: str | None = None) -> Setting:
    cells = dict.fromkeys(COLUMNS, "") | CELLS | {"machine_id": ask.machine.name, "runtime": runtime}
    rates = ask.machine.rates
    return Setting(
        row=measurement_of("plan", cells, (ask.machine.name,)),
        known=ask.model.known,
        model=ask.model.dimensions,
        placement=placement,
        rates=rates,
        context=ask.context,
        runtime=runtime,
        sockets=rates.sockets if runtime == KTRANSFORMERS else 1,
        threads=rates.threads,
        software=software,
    )


def too_little(ask: Ask, embedding: bool = True) -> str | None:
    """Why nothing runs on the GPU at all."""
    if not ask.machine.has_gpu:
        return "the machine has no GPU that is known"
    if ask.room(embedding) < 0:
        fixed = ask.always_bytes(embedding) + ask.kv_bytes + ask.workspace_bytes
        return (
            f"attention, K and V of {ask.context:,} tokens and workspace take {gib(fixed)}, the GPU has "
            f"{gib(ask.machine.gpu_bytes)}"
        )
    return None


def no_experts_elsewhere(ask: Ask) -> str | None:
    """Why experts cannot lie beside the GPU's memory."""
    if ask.machine.rates.unified:
        return "CPU and GPU share one memory: experts are resident or nowhere"
    if ask.machine.rates.ram_bytes_per_s is None:
        alike = "".join(f" or hardware={name}" for name in files_alike(ask.machine.name))
        return f"the rate of the machine's RAM is not known: say it, as 2ch DDR5-5600 or 80 GB/s RAM{alike}"
    return None


def needs_card(ask: Ask) -> str:
    return (
        f"its hits need routing, and no card is of the family {ask.model.family}: borrow=CARD takes another's and says "
        "so, card=FILE.yaml one of your own (python -m sim card)"
    )


def beside(ask: Ask, name: str, what: str, flags: str, setting: Setting, slots: int) -> Plan:
    """A plan with so many experts of every layer on the GPU and all of them in host memory."""
    used = ask.always_bytes(True) + ask.kv_bytes + ask.workspace_bytes + slots * sum(ask.model.expert_bytes)
    return Plan(name, what, flags, setting, used, sum(ask.layer_bytes))
