"""What a machine of the corpus can do: rates that its author states, else those of the datasheets of its named parts.

`parts.csv` holds the datasheets: nominal rates, with the spread among cards of one name as uncertainty. A rate that is
neither stated nor follows from a named part is not known; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim.paths import ROOT
from sim.validation.published.corpus.tables import NUMBER, StatedMachine, cell_number, number_of, read_csv
from traces.errors import UserError

SHIPPED = ROOT / "docs" / "validation" / "corpus"
PARTS = "parts.csv"
KINDS = ("gpu", "unified", "cpu", "drive")
NUMBERS = (
    "memory_gb", "bandwidth_gb_s", "fp16_tflops", "pcie_gen", "pcie_lanes", "cores", "channels", "memory_mt_s",
    "uncertainty",
)  # fmt: skip
COLUMNS = ("part", "kind", "match", *NUMBERS, "vector", "source")
LANE_GB_S = {3: 0.985, 4: 1.969, 5: 3.938}
"""Of one PCIe lane, by generation."""
STATED, SPECIFIED = "stated", "specified"
"""How a rate is known: its author states it or what it follows from, or the named CPU's datasheet does."""


@dataclass(frozen=True, slots=True)
class Part:
    """A row of `parts.csv`; 0 is not stated. ``kind`` unified: CPU and GPU share one memory; drive: ``bandwidth_gb_s``
    of reads in sequence."""

    part: str
    kind: str
    match: str
    memory_gb: float
    bandwidth_gb_s: float
    fp16_tflops: float
    pcie_gen: float
    pcie_lanes: float
    cores: float
    channels: float
    memory_mt_s: float
    uncertainty: float
    vector: str
    source: str


@dataclass(frozen=True, slots=True)
class Rates:
    """Nominal rates in bytes per second and sizes in bytes; None is not known. ``ram_known`` and so on: how."""

    name: str
    gpu: Part | None = None
    cpu: Part | None = None
    gpu_bytes_per_s: float | None = None
    unified: bool = False
    gpu_count: int | None = None
    ram_bytes_per_s: float | None = None
    ram_known: str | None = None
    sockets: int = 1
    cores: int | None = None
    threads: int | None = None
    link_bytes_per_s: float | None = None
    link_known: str | None = None
    storage_bytes_per_s: float | None = None
    storage_known: str | None = None
    ram_bytes: float | None = None
    vram_bytes: float | None = None
    ram_uncertainty: float | None = None
    """Relative spread of the rate where a file of `conf/hardware` states it; so the next."""
    link_uncertainty: float | None = None


@cache
def shipped_parts() -> tuple[Part, ...]:
    """All rows of the shipped `parts.csv`."""
    return read_parts(SHIPPED / PARTS)


def read_parts(path: Path) -> tuple[Part, ...]:
    """The parts of a file. Raises: UserError that names file, row, column, value and what is allowed."""
    parts = []
    for cells in read_csv(path, COLUMNS):
        where = f"part={cells['part']!r}"
        if cells["kind"] not in KINDS:
            raise UserError(f"{path.name} {where}: kind={cells['kind']!r}: must be one of {', '.join(KINDS)}")
        values: dict[str, Any] = {name: cell_number(path.name, where, name, cells[name] or "0") for name in NUMBERS}
        try:
            re.compile(cells["match"])
        except re.error as error:
            raise UserError(f"{path.name} {where}: match={cells['match']!r}: must be a pattern: {error}") from None
        values |= {name: cells[name] for name in ("part", "kind", "match", "vector", "source")}
        parts.append(Part(**values))
    return tuple(parts)


_TIERS = {**dict.fromkeys("123", 3), **dict.fromkeys("456", 5), "7": 7, **dict.fromkeys("89", 9)}
"""Of Intel's Core, by the digit after the generation."""


def _tier(found: re.Match[str]) -> str:
    """i7-14700 of 14700."""
    return f"i{_TIERS[found[2]]}-{found[1]}{found[2]}"


_PLAIN: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"_", " "),
    (r"\b(rtx|gtx|rx|arc|epyc|ryzen|threadripper|radeon|geforce|quadro|tesla)-?(?=[a-z]?\d)", r"\1 "),
    (r"\b(ryzen)[ -]?([3579])[ -]", r"\1 \2 "),
    (r"(?<=\d{4})-?(ti|super|gre|xtx?|laptop|mobile)\b", r" \1"),
    (r"\bti-?super\b", "ti super"),
    (r"\b(?:core )?i([3579])[ -]?(?=\d{4,5})", r"i\1-"),
)
_BARE = r"(?<![\w-])(?=(?:1\d{4}(?:k[fs]?|f|t|hx?)|[6-9]\d{3}(?:k|t|h)|9\d{3}f)\b)(1[0-4]|[6-9])([1-9])"
"""Names as people write them, rtx4070ti, i7 14700K or 14700k, as the tables' patterns have them."""


def plain_name(text: str) -> str:
    """A part's name as the patterns of the tables have it.

    >>> plain_name("RTX4070Ti, i7 14700K"), plain_name("12400f, epyc7742")
    ('RTX 4070 Ti, i7-14700K', 'i5-12400f, epyc 7742')
    """
    for pattern, plain in _PLAIN:
        text = re.sub(pattern, plain, text, flags=re.I)
    return text if re.search(r"epyc|ryzen|xeon|threadripper", text, re.I) else re.sub(_BARE, _tier, text, flags=re.I)


def find_part(text: str, kinds: Sequence[str], parts: Sequence[Part]) -> Part | None:
    """The part whose name is found in a text, the longest where several are; a line for a whole series of CPUs, which
    states no cores, only where none of its own is."""
    name = plain_name(text)
    found = [
        ((part.kind != "cpu" or part.cores > 0, len(match[0])), part)
        for part in parts
        if part.kind in kinds and (match := re.search(part.match, name, re.I)) is not None
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def rates_of(machine: StatedMachine) -> Rates:
    """Everything that a machine's row and the datasheets of its parts say."""
    parts = shipped_parts()
    text = f"{machine.gpu} {machine.cpu}"
    gpu = find_part(machine.gpu, ("gpu", "unified"), parts) or find_part(machine.cpu, ("unified",), parts)
    unified = gpu is not None and gpu.kind == "unified"
    cpu = None if unified else find_part(text, ("cpu",), parts)
    sockets = 2 if re.search(r"\b(2 ?x|dual) ?(amd |intel )?(epyc|xeon)", text, re.I) else 1
    ram, ram_known = _ram(machine, cpu, sockets)
    link, link_known = _link(machine, gpu)
    storage, storage_known = _storage(machine, parts)
    threads = re.search(r"(\d{1,6}) (?:infer(?:ence)? )?threads", machine.gpu, re.I)
    ram_gb = number_of(machine.ram_gb)
    return Rates(
        name=machine.machine_id,
        gpu=gpu,
        cpu=cpu,
        gpu_bytes_per_s=_gpu(machine, gpu),
        unified=unified,
        gpu_count=_count(machine),
        ram_bytes_per_s=_gpu(machine, gpu) if unified and ram is None else ram,
        ram_known=STATED if unified and ram is None else ram_known,
        sockets=sockets,
        cores=_cores(machine, cpu or (gpu if unified else None), sockets),
        threads=int(threads[1]) if threads else None,
        link_bytes_per_s=link,
        link_known=link_known,
        storage_bytes_per_s=storage,
        storage_known=storage_known,
        ram_bytes=None if ram_gb is None else ram_gb * 1e9,
        vram_bytes=_vram(machine, gpu),
    )


def _stated(rate: float | str | None) -> float | None:
    """Bytes per second of a rate in GB/s; a rate of 0 is none."""
    return 1e9 * float(rate) if rate and float(rate) > 0 else None


def _gpu(machine: StatedMachine, gpu: Part | None) -> float | None:
    stated = re.search(rf"gpu memory ({NUMBER}) ?gb/s", machine.other, re.I)
    beside = re.match(rf"[^+(]*\(({NUMBER}) ?gb/s\)", machine.gpu, re.I)
    told = stated or beside
    return _stated(told[1].replace(",", "") if told else None) or _stated(gpu.bandwidth_gb_s if gpu else None)


def _vram(machine: StatedMachine, gpu: Part | None) -> float | None:
    """Memory of one GPU: stated, in its name, or its part's; None where it shares the system's."""
    named = re.search(r"\b(\d{1,3}) ?gb\b(?!/s)", machine.gpu, re.I)
    gb = number_of(machine.vram_gb) or (float(named[1]) if named else None)
    if gpu is None or gpu.kind == "unified":
        return None
    return 2**30 * (gb or gpu.memory_gb) or None


def _count(machine: StatedMachine) -> int | None:
    """GPUs of a machine; None where its rows say."""
    if re.search(r"x1 or x2|see row|1 or 2", f"{machine.gpu} {machine.gpu_count}", re.I):
        return None
    many = re.match(r"\s*(\d{1,6}) ?x ", machine.gpu, re.I)
    count = number_of(machine.gpu_count)
    return int(many[1]) if many else 1 if count is None else int(count)


def _ram(machine: StatedMachine, cpu: Part | None, sockets: int) -> tuple[float | None, str | None]:
    """DRAM rate of all sockets, and how it is known."""
    text = f"{machine.gpu} {machine.ram_type} {machine.other}"
    rate = number_of(machine.ram_bandwidth_gb_s)
    beside = re.search(rf"ddr\d[^()]*\(({NUMBER}) ?gb/s\)", machine.gpu, re.I)
    told = _stated(rate) or _stated(beside[1].replace(",", "") if beside else None)
    if told:
        return told, STATED
    speed = re.search(r"ddr\dx?[- ]?(\d{4,5})", text, re.I)
    named = re.search(r"(\d{1,6}) ?ch\b", text, re.I)
    channels = number_of(machine.ram_channels) or (float(named[1]) if named else None)
    stated = STATED if speed and channels else SPECIFIED
    mt_s = float(speed[1]) if speed else cpu.memory_mt_s if cpu else 0.0
    channels = channels or (cpu.channels if cpu else 0.0)
    if not mt_s or not channels:
        return None, None
    return 8e6 * mt_s * channels * sockets, stated


def _cores(machine: StatedMachine, cpu: Part | None, sockets: int) -> int | None:
    if cpu is not None and cpu.cores:
        return int(cpu.cores) * sockets
    cores = number_of(machine.cpu_cores.split("/")[0])
    if cores is None:
        return None
    return max(1, int(cores) // 2 if "logical" in machine.cpu_cores else int(cores))


def _link(machine: StatedMachine, gpu: Part | None) -> tuple[float | None, str | None]:
    """Rate of the link, and how it is known: measured or stated; else the GPU's own lanes, an upper bound."""
    measured = number_of(machine.link_measured_gb_s)
    told = re.search(rf"({NUMBER}) ?gb/s", machine.link, re.I)
    rate = _stated(measured) or _stated(told[1].replace(",", "") if told else None)
    if rate:
        return rate, STATED
    generation = re.search(r"(?:pcie|gen) ?([345])(?:\.0)?", machine.link, re.I)
    lanes = re.search(r"x ?(\d{1,6})", machine.link, re.I)
    gen = int(generation[1]) if generation else int(gpu.pcie_gen) if gpu else 0
    width = int(lanes[1]) if lanes else int(gpu.pcie_lanes) if gpu else 0
    if gen not in LANE_GB_S or not width:
        return None, None
    return 1e9 * LANE_GB_S[gen] * width, STATED if generation else SPECIFIED


SEVERAL_DRIVES = r"raid|mirror|\+|\b\d ?x (?!pcie|gen)|vhdx|zstd|usb|external|\bvm\b"
"""Words beside a drive's name that make its datasheet no answer."""


def _storage(machine: StatedMachine, parts: Sequence[Part]) -> tuple[float | None, str | None]:
    """Rate of reads past the page cache where it is stated, else the first rate, else the named drive's datasheet."""
    text = machine.storage_gb_s
    past = re.search(rf"({NUMBER}) ?(?:O_DIRECT|F_NOCACHE|cold)", text)
    rate = _stated(past[1].replace(",", "") if past else number_of(text))
    if rate:
        return rate, STATED
    drive = None if re.search(SEVERAL_DRIVES, machine.storage, re.I) else find_part(machine.storage, ("drive",), parts)
    return (None, None) if drive is None else (_stated(drive.bandwidth_gb_s), SPECIFIED)
