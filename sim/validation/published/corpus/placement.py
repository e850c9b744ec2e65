"""What a row says of where its experts were, as numbers: layers on the CPU, shares on the GPU, hits of a cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sim.machine.model import Dimensions
from sim.validation.published.corpus.tables import NUMBER, Measurement

RESIDENT, CPU_ONLY, CPU_EXPERTS, LINK_CACHE, STORAGE_CACHE = (
    "all resident", "all on the CPU", "experts on the CPU", "cache over the link", "cache over storage",
)  # fmt: skip
KINDS = (RESIDENT, CPU_EXPERTS, CPU_ONLY, LINK_CACHE, STORAGE_CACHE)
_ALL_ON_CPU = (
    r"(?<![\w-])-{1,2}cmoe\b|--cpu-moe\b|exps[^ ]*=cpu|"
    r"\ball (?:routed |moe )?(?:experts|moe layers) (?:on|in) (?:the )?(?:cpu|ram)\b"
)
_RESIDENT = (
    r"\ball resident\b|^resident\b|\b(?:all|fully|entirely|everything) (?:on|in) (?:the )?(?:gpu|vram)\b|"
    r"\bfull gpu\b|\bfull(?:y)? (?:gpu )?offload(?:ed)?(?: to (?:the )?gpu)?$|\b100 ?% (?:on )?(?:gpu|vram)\b"
)
_STORAGE = r"ssd|nvme|disk|stream|flash storage|ram budget|ram lru|colibri|slotstream|boyle|fieldfare|bigmoe|big_moe"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the experts of a token are: of ``cpu_layers`` layers on the CPU; in the others a share ``gpu_share`` on the
    GPU and the rest computed on the CPU, or copied on demand with a share ``miss`` of them missing."""

    kind: str
    cpu_layers: int = 0
    gpu_share: float = 1.0
    miss: float = 0.0
    """Of all experts of a token: copied over the link, or read from storage."""
    miss_bytes: float | None = None
    """Bytes that a token reads past the cache, where they are stated rather than the rate of misses."""
    lookup: bool = True
    """A cache is looked up and decided on; false: every expert is copied, and nothing is."""


def placement_of(row: Measurement, model: Dimensions) -> Placement | None:
    """The placement that a row states; None where it leaves out what is needed."""
    layers, value = model.num_layers, row.placement_value.lower()
    told = f"{value} | {row.flags.lower()}"
    kind = row.placement_kind.lower()
    if re.search(r"\bcpu[- ]only\b|\bno gpu\b|-ngl 0\b", told):
        return Placement(STORAGE_CACHE, miss=_miss(row)) if _misses(row) else Placement(CPU_ONLY)
    if _misses(row):
        stored = re.search(rf"({NUMBER}) ?mib(?:/| per )?(?:token)?\s*$", value)
        tier = STORAGE_CACHE if re.search(_STORAGE, row.words) else LINK_CACHE
        return Placement(tier, miss=_miss(row), miss_bytes=float(stored[1]) * 2**20 if stored else None)
    if re.search(r"staging only|bypass", value):
        return Placement(LINK_CACHE, miss=1.0, lookup=False)
    if (
        re.search(r"hot cache|expert cache|moe-cache|\blru\b|\bslots\b", f"{told} | {kind}")
        and "all resident" not in value
    ):
        return None  # a cache whose hits are not stated
    share = re.search(rf"({NUMBER}) ?% of experts on gpu", value)
    count = re.search(r"(\d{1,6}) of (\d{1,6}) (?:gpu experts|experts on (?:the )?gpu)", value)
    if share or count:
        part = float(share[1]) / 100 if share else int(count[1]) / max(1, int(count[2]))  # type: ignore[index]
        return Placement(CPU_EXPERTS, gpu_share=part) if part < 1 else Placement(RESIDENT)
    ends = re.search(r"(\d{1,6})\s*\+\D*(\d{1,6}) layers on gpu", value)
    if ends:
        return _on_cpu(layers - int(ends[1]) - int(ends[2]), layers)
    number = _cpu_moe(told, kind, value)
    if number is not None:  # llama.cpp counts layers from the first, dense ones too
        return _on_cpu(number - model.dense_layers if number < layers + model.dense_layers else layers, layers)
    if re.search(_ALL_ON_CPU, f"{told} | {kind}"):
        return _on_cpu(layers, layers)
    if re.search(_RESIDENT, value) or kind.startswith("resident"):
        return None if re.search(_STORAGE, row.words) else Placement(RESIDENT)
    return None


def assumed_placement(row: Measurement, model: Dimensions) -> Placement:
    """A placement that stands for one that is not stated."""
    if re.search(_STORAGE, row.words):
        return Placement(STORAGE_CACHE, miss=0.5)
    return Placement(CPU_EXPERTS, cpu_layers=model.num_layers)


def _on_cpu(number: int, layers: int) -> Placement | None:
    if number < 0:
        return None
    return Placement(CPU_EXPERTS, cpu_layers=min(number, layers)) if number else Placement(RESIDENT)


def _cpu_moe(told: str, kind: str, value: str) -> int | None:
    """N of --n-cpu-moe N."""
    for text in told.split(" | "):
        found = re.search(r"n[-_]?cpu[-_]?moe[ =:]+(?:all \()?(\d{1,6})|ncmoe[ =:]*(\d{1,6})", text)
        if found:
            return int(found[1] or found[2])
    bare = re.fullmatch(r"(\d{1,6})(?: \(.*\))?", value)
    return int(bare[1]) if "n-cpu-moe" in kind and bare else None


def _misses(row: Measurement) -> bool:
    return row.hit_rate is not None or row.miss_rate is not None or _told_hit(row) is not None


def _miss(row: Measurement) -> float:
    hit = row.hit_rate if row.hit_rate is not None else _told_hit(row)
    return row.miss_rate if row.miss_rate is not None else 1.0 - (hit or 0.0)


def _told_hit(row: Measurement) -> float | None:
    """A hit rate that stands among the words of the placement: "hit 56 %", "hit .791"."""
    found = re.search(rf"\bhits? (?:rate )?({NUMBER})\s*(%?)", row.placement_value, re.I)
    if not found:
        return None
    value = float(found[1]) / (100 if found[2] else 1)
    return value if value <= 1 else None
