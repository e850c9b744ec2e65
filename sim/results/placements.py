"""Which experts a run would keep for good, as files of other runtimes; and how often such a placement would have hit.

A static rule keeps what it starts with: its placement is that of the run, and hits exactly as often. Of any other rule
the most demanded experts that fit the run's capacity are taken, with the demand of the run itself: hindsight, and
therefore a bound for placements that are made before.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from policies.state import ABSENT
from sim.assembly.build import build
from sim.assembly.replay import Replay
from sim.results.json_files import read_json
from sim.results.run_files import results_of
from traces.errors import UserError
from traces.format.mapped import gather
from traces.format.ranks import signed_ids
from traces.whole_input import read_bounded

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]
MOST_BYTES = 1 << 24
FREQUENCY_COLUMNS = "layer,expert,prefill_steps,decode_steps,share_of_layer,resident"
_LAYERS = re.compile(r"blk\\\.\(([\d|]+)\)\\\.ffn_\S*?_exps\S*?=CPU")


@dataclass(frozen=True, slots=True)
class Placement:
    """`resident` [L, E]: experts that stay on the device; `demand` [2, L, E]: steps of each phase that demanded them;
    `numbers` [L]: what the model calls the MoE layers; `of_run`: it is what the run itself kept."""

    resident: Mask
    demand: Counts
    numbers: tuple[int, ...]
    of_run: bool

    def hit_rate(self, resident: Mask | None = None) -> float:
        """Share of the distinct (layer step, expert) pairs of the run that `resident` holds (or this placement)."""
        demand = self.demand.sum(axis=0)
        kept = self.resident if resident is None else resident
        return float(demand[kept].sum() / demand.sum())


def read_placement(run: Path, first_layer: int | None = None) -> Placement:
    """The placement of the run in a folder, whose trace must still be there.

    `first_layer`: number of the first MoE layer in the model; else as the trace says, or 0. Raises: UserError for a
    folder that holds no run on one device, or whose trace is another one by now.
    """
    provenance = read_json(run / "provenance.json")
    if "policy" not in provenance or not isinstance(provenance.get("config"), dict):
        raise UserError(f"{run} holds no run of a policy on one device")
    with results_of(run):
        replay = build(OmegaConf.create(provenance["config"]))
    if replay.trace.content_hash != provenance.get("trace_hash"):
        raise UserError(f"{run}: its trace has another content now than when it was replayed")
    demand = _demand(replay)
    initial = _initial(replay)
    said = replay.trace.provenance.get("layer_numbers")
    count = replay.trace.num_layers
    known = isinstance(said, list) and len(said) == count and all(isinstance(one, int) for one in said)
    numbers = tuple(said) if known and isinstance(said, list) else tuple(range(count))
    if first_layer is not None:
        numbers = tuple(range(first_layer, first_layer + count))
    return Placement(_hottest(replay, demand) if initial is None else initial, demand, numbers, initial is not None)


def _demand(replay: Replay) -> Counts:
    """How many steps of each phase demand each expert, [2, L, E]."""
    trace = replay.trace
    found = np.zeros((2, trace.num_layers, trace.num_experts), np.int64)
    seen = np.zeros((trace.num_layers, trace.num_experts + 1), bool)  # the last column: ranks without an expert
    layers = np.arange(trace.num_layers)[:, None]
    for block in replay.schedule.blocks():
        for step in range(len(block)):
            rows = block.rows[block.bounds[step] : block.bounds[step + 1]]
            ids = signed_ids(gather(trace.topk_ids, rows), trace.fewer, np.int64)
            seen[:] = False
            seen[layers, ids] = True
            found[block.phase[step]] += seen[:, :-1]
    return found


def _initial(replay: Replay) -> Mask | None:
    """What a static rule keeps, None for rules that exchange experts."""
    if not replay.policy.eviction.static:
        return None
    status = np.concatenate([device.arrays["status"] for device in replay.devices])
    return np.asarray(status.reshape(replay.trace.num_layers, -1) != ABSENT)


def _hottest(replay: Replay, demand: Counts) -> Mask:
    """The most demanded experts of each pool for its bytes, as many as fit, [L, E]."""
    if replay.cache.auto:
        raise UserError(
            "cache.bytes=auto: the run has another capacity at every step; export one with a fixed capacity"
        )
    pools, total = replay.pools, demand.sum(axis=0)
    resident = np.zeros(total.shape, bool)
    worth = total / pools.size[:, None]
    room = pools.capacity.astype(np.int64).copy()
    order = np.argsort(-worth, axis=None, kind="stable")
    for layer, expert in zip(*np.unravel_index(order, total.shape), strict=True):
        pool = pools.pool_of[layer]
        if room[pool] >= pools.size[layer]:
            resident[layer, expert] = True
            room[pool] -= pools.size[layer]
    return resident


def frequency_text(placement: Placement) -> str:
    """CSV: how often each expert was demanded, and whether the placement keeps it."""
    lines = [FREQUENCY_COLUMNS]
    total = placement.demand.sum(axis=0)
    shares = total / np.maximum(total.sum(axis=1, keepdims=True), 1)
    for layer, number in enumerate(placement.numbers):
        for expert in range(total.shape[1]):
            prefill, decode = placement.demand[:, layer, expert]
            share, stays = shares[layer, expert], int(placement.resident[layer, expert])
            lines.append(f"{number},{expert},{prefill},{decode},{share:.6f},{stays}")
    return "\n".join(lines) + "\n"


def hot_set_text(placement: Placement) -> str:
    """JSON: the experts of each layer that stay, by the model's numbers of layers."""
    kept = {str(n): np.flatnonzero(row).tolist() for n, row in zip(placement.numbers, placement.resident, strict=True)}
    return json.dumps({"hot_experts": kept, "num_experts": placement.resident.shape[1]}, indent=1) + "\n"


def ktransformers_text(placement: Placement) -> str:
    """JSON: `logical_count` [L, E] as SGLang's --init-expert-location takes it, and the experts that stay on the GPU.

    KTransformers chooses the most counted experts itself, --kt-num-gpu-experts of each layer.
    """
    slots = placement.resident.sum(axis=1)
    kept = {str(n): np.flatnonzero(row).tolist() for n, row in zip(placement.numbers, placement.resident, strict=True)}
    table: dict[str, Any] = {
        "logical_count": placement.demand.sum(axis=0).tolist(),
        "gpu_experts": kept,
        "kt_num_gpu_experts": int(slots.min()),
    }
    return json.dumps(table) + "\n"


def llama_cpp_text(placement: Placement) -> str:
    """Arguments of llama.cpp, which places the experts of a layer as a whole: all that fit, by -ot or --n-cpu-moe."""
    layers, experts = placement.resident.shape
    whole = int(placement.resident.sum()) // experts
    worth = placement.demand.sum(axis=(0, 2))
    best = np.sort(np.argsort(-worth, kind="stable")[:whole])
    cpu = [placement.numbers[layer] for layer in range(layers) if layer not in best]
    last = placement.numbers[layers - whole] if whole else placement.numbers[-1] + 1
    lines = [
        f"# {whole} of {layers} MoE layers fit: -ot keeps those most demanded from, --n-cpu-moe the last ones.",
        "# Take one of the two.",
        rf'-ot "blk\.({"|".join(map(str, cpu))})\.ffn_.*_exps\.=CPU"' if cpu else "# all layers fit: no -ot is needed",
        f"--n-cpu-moe {last}",
    ]
    return "\n".join(lines) + "\n"


WRITERS = {
    "frequency": frequency_text,
    "hot_set": hot_set_text,
    "ktransformers": ktransformers_text,
    "llama_cpp": llama_cpp_text,
}


def read_back(path: Path, kind: str, numbers: tuple[int, ...], num_experts: int) -> dict[str, Mask]:
    """What a written file keeps, [L, E] by the name of the choice that it leaves (one, of llama.cpp's two).

    Raises: UserError for a file that is none of its kind.
    """
    text = read_bounded(path, MOST_BYTES, "the file").decode()
    try:
        if kind == "frequency":
            head, *lines = text.splitlines()
            if head != FREQUENCY_COLUMNS:
                raise ValueError(f"its first line is no {FREQUENCY_COLUMNS}")
            rows = [line.split(",") for line in lines]
            cells = [(int(row[0]), int(row[1])) for row in rows if row[5] == "1"]
        elif kind in ("hot_set", "ktransformers"):
            table = json.loads(text)["hot_experts" if kind == "hot_set" else "gpu_experts"]
            cells = [(int(layer), int(expert)) for layer, experts in table.items() for expert in experts]
        else:
            return _llama_choices(text, numbers, num_experts)
        mask = np.zeros((len(numbers), num_experts), bool)
        for layer, expert in cells:
            mask[numbers.index(layer), expert] = True
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no {kind} file: {type(error).__name__}: {error}") from error
    return {kind: mask}


def _llama_choices(text: str, numbers: tuple[int, ...], num_experts: int) -> dict[str, Mask]:
    everything = np.ones((len(numbers), num_experts), bool)
    override, first = everything.copy(), everything.copy()
    if (match := _LAYERS.search(text)) is not None:
        override[[numbers.index(int(one)) for one in match[1].split("|")]] = False
    count = re.search(r"^--n-cpu-moe (\d+)$", text, re.MULTILINE)
    if count is None:
        raise ValueError("it has no --n-cpu-moe")
    first[[at for at, number in enumerate(numbers) if number < int(count[1])]] = False
    return {"-ot": override, "--n-cpu-moe": first}
