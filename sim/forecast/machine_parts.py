"""A machine from the names of its parts: "RTX 4070 12GB, Ryzen 7 7700, 2ch DDR5-5600, 64 GB RAM"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from sim.forecast.machines import ForecastMachine, files_alike
from sim.forecast.spelling import SPEED, pieces_of, ram_type_of, sticks_of, unread_of
from sim.validation.published.corpus.parts import SPECIFIED, Rates, plain_name, rates_of, shipped_parts
from sim.validation.published.corpus.parts import find_part as find
from sim.validation.published.corpus.tables import MACHINE_COLUMNS, NUMBER, StatedMachine
from traces.errors import UserError

_STORAGE = r"\b(?:ssd|nvme|disk|ufs|storage|hdd|hard drive|drive)\b"
_NO_GPU = r"(?:no|without(?: a)?) (?:dedicated |discrete )?(?:gpu|graphics(?: card)?)|cpu[- ]only"
_SEVERAL = r"^\s*(?:dual|twin|two|three|quad|four|[2-9] ?x|[2-9]\*)\s|\b(?:x ?[2-9]|[2-9]x)\s*$"
"""Before or after a GPU's name."""
SEVERAL_GPUS = (
    "several GPUs: a forecast is of one: name one; `python -m sim run trace=stand_in devices.count=2` replays two"
)


def of_parts(words: str) -> ForecastMachine:
    """From names of parts after commas: "RTX 4070 12GB, Ryzen 7 7700, 2ch DDR5-5600, 64 GB RAM".

    Raises: UserError for a part that is not known, and where neither a GPU nor a CPU is named.
    """
    pieces = [piece for piece in pieces_of(words) if not re.fullmatch(_NO_GPU, piece, re.I)]
    cells = dict.fromkeys(MACHINE_COLUMNS, "") | {"machine_id": words, "gpu_count": "1", "source": "hardware="}
    not_read: list[str] = []
    drives: list[str] = []
    for piece in pieces:
        if _drive_alone(piece):
            drives.append(piece)
            if not cells["storage"] and find(piece, ("drive",), shipped_parts()):
                cells["storage"] = piece
            continue
        not_read += unread_of(piece)
        for column, text in _columns(piece, words).items():
            if cells[column]:
                what = column.partition("_")[0].upper()
                raise UserError(f"hardware={words}: {piece!r} says {what} a second time: a forecast is of one of each")
            cells[column] = text
    if not cells["gpu"] and not cells["cpu"]:
        raise UserError(f"hardware={words}: no GPU or CPU of parts.csv is named: {HOW}")
    rates = rates_of(StatedMachine(**cells))
    if rates.unified and rates.ram_bytes is None:
        rates = replace(rates, ram_bytes=_memory_beside(cells["gpu"]) or _memory_beside(cells["cpu"]))
    if rates.gpu_count != 1:
        raise UserError(f"hardware={words}: {SEVERAL_GPUS}")
    if rates.unified and rates.ram_bytes is None and rates.gpu is not None and rates.gpu.memory_gb:
        rates = replace(rates, ram_bytes=rates.gpu.memory_gb * 1e9)
    if rates.unified and rates.ram_bytes is None:
        raise UserError(f"hardware={words}: say how much memory it has, as {words}, 64 GB RAM")
    known = _how(rates, cells)
    if rates.storage_known == SPECIFIED and (drive := find(cells["storage"], ("drive",), shipped_parts())):
        known.append(f"{drive.part}: {drive.source}; {drive.bandwidth_gb_s:g} GB/s say it in sequence")
    if rates.storage_bytes_per_s is None:
        known += [f"{piece}: its rate is not known (5 GB/s ssd says one); what needs it is refused" for piece in drives]
    return ForecastMachine(words, rates, tuple(known), not_read=tuple(not_read))


HOW = (
    "name a file of conf/hardware, a yaml, here, or parts with commas, as hardware='RTX 4070, Ryzen 7 7700, "
    "2ch DDR5-5600, 64 GB RAM', a drive as 5 GB/s ssd"
)


def _drive_alone(piece: str) -> bool:
    """A drive of which nobody says how fast it reads: by its name, its slot, or its size alone."""
    if find(piece, ("gpu", "unified", "cpu"), shipped_parts()) or re.search(r"b/s|ddr\d|\bram\b|memory", piece, re.I):
        return False
    return bool(re.search(_STORAGE, piece, re.I) or find(piece, ("drive",), shipped_parts()))


def _memory_beside(name: str) -> float | None:
    """Bytes of memory that stand beside the name of a chip: M4 Max 64GB."""
    found = re.search(rf"{_ALONE}({NUMBER}) ?gi?b\b(?!/s)", name, re.I)
    return 1e9 * float(found[1].replace(",", "")) if found else None


def _columns(piece: str, words: str) -> dict[str, str]:
    """Columns of `machines.csv` that a piece of the words fills. Raises: UserError where it says nothing known."""
    sticks = sticks_of(piece)
    memory = re.search(rf"{_ALONE}({NUMBER}) ?gi?b\b(?!/s)(?=$|.*(?:ram|memory|ddr\d|unified))", piece, re.I)
    memory = memory or re.search(rf"(?:ram|memory|ddr\d).*{_ALONE}({NUMBER}) ?gi?b\b(?!/s)", piece, re.I)
    rate = re.search(rf"{_ALONE}({NUMBER}) ?gb/s", piece, re.I)
    cores = re.fullmatch(r"(\d{1,4})[ -]?cores?(?: cpu)?", piece, re.I)
    found: dict[str, str] = {}
    if rate and re.search(_STORAGE, piece, re.I):
        found = {"storage_gb_s": rate[1]}
    elif rate and re.search(r"link|pcie", piece, re.I):
        found = {"link": piece}
    elif rate and re.search(r"ram|ddr|dram|memory", piece, re.I):
        found = {"ram_bandwidth_gb_s": rate[1]}
    elif find(piece, ("gpu", "unified"), shipped_parts()):
        _check_alone(piece, words)
        if re.search(_SEVERAL, piece, re.I):
            raise UserError(f"hardware={words}: {SEVERAL_GPUS}")
        found = {"gpu": piece}
    elif find(piece, ("cpu",), shipped_parts()):
        _check_alone(piece, words)
        found = {"cpu": piece}
    elif re.search(r"pcie", piece, re.I):
        found = {"link": piece}
    elif cores:
        found = {"cpu_cores": cores[1]}
    else:
        if memory or sticks:
            found["ram_gb"] = str(sticks) if sticks else memory[1]  # type: ignore[index]
        if re.search(r"ddr\d", piece, re.I):
            found["ram_type"] = ram_type_of(piece)
    numbers = [found[name] for name in ("storage_gb_s", "ram_bandwidth_gb_s", "ram_gb", "cpu_cores") if name in found]
    if not found or any(not 0 < float(number.replace(",", "")) <= LARGEST for number in numbers):
        alike = files_alike(words)
        hint = f"did you mean {' or '.join(alike)}? Else " if alike else ""
        raise UserError(f"hardware={words}: {piece!r} is not known: {hint}{HOW}")
    return found


def _check_alone(piece: str, words: str) -> None:
    """Raises: UserError for a GPU or CPU in one piece with RAM, which would not be read."""
    if re.search(r"ddr[345]|\bram\b", piece, re.I):
        raise UserError(f"hardware={words}: {piece!r} says a GPU or CPU and RAM: put a comma between them")


_ALONE = r"(?<![\w.,-])"
"""Before a number: nothing that would make it part of another one."""
LARGEST = 1e6
"""GB, GB/s or cores of a machine; what is above is a slip of the pen."""


def _how(rates: Rates, cells: Mapping[str, str]) -> list[str]:
    """How each rate is known."""
    said: list[str] = []
    ram_type = cells["ram_type"]
    if rates.gpu is not None:
        said.append(f"{_taken(rates.gpu.part, cells['gpu'])}: {rates.gpu.source}, PUBLISHED")
    if rates.cpu is not None:
        said.append(f"{_taken(rates.cpu.part, cells['cpu'])}: {rates.cpu.source}, PUBLISHED")
    if rates.ram_known == SPECIFIED and re.search(SPEED, ram_type):
        said.append(f"RAM {ram_type}, channels as the CPU's datasheet has them")
    elif rates.ram_known == SPECIFIED and re.search("ch ", ram_type):
        said.append(f"RAM {ram_type}, as fast as the CPU's datasheet allows")
    elif rates.ram_known == SPECIFIED:
        said.append("RAM as fast as the CPU's datasheet allows: say yours, as 2ch DDR5-5600")
    return said


def _taken(part: str, named: str) -> str:
    """A part, and what it stands for where another of its line was named: Ryzen 5 5600 for Ryzen 5 5600X."""
    words = re.split(r"[ -]", plain_name(named).lower())
    own = all(word in words for word in re.split(r"[ -]", part.lower()) if re.search(r"\d", word))
    return part if own or not named else f"{part}, as which {named} is taken"
