"""The machine of a forecast: a file of `conf/hardware`, a yaml of one's own, or the names of its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sim.machine.hardware import Hardware, hardware_names, load_hardware
from sim.machine.storage import READAHEAD_BYTES, rate_at
from sim.validation.published.corpus.parts import LANE_GB_S, SPECIFIED, STATED, Part, Rates, rates_of, shipped_parts
from sim.validation.published.corpus.parts import find_part as find
from sim.validation.published.corpus.tables import MACHINE_COLUMNS, NUMBER, StatedMachine
from traces.errors import UserError

NO_GPU_BYTES = 2**28
"""A hardware file with less memory than this has no GPU: the CPU plays the device in it."""
DEFAULT_SPREAD = {"gpu": 0.05, "ram": 0.35, "link": 0.25}
"""Relative spread of a figure of a hardware file that states none."""
_STORAGE = r"\b(?:ssd|nvme|disk|ufs|storage)\b"


@dataclass(frozen=True, slots=True)
class ForecastMachine:
    """A machine with its rates; ``known`` says in words how the rates are known."""

    name: str
    rates: Rates
    known: tuple[str, ...]
    file: Hardware | None = None
    """Where its rates come from, if from one file."""
    not_read: tuple[str, ...] = ()
    """Words of the machine that say nothing known."""

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU with a rate that is known."""
        return self.rates.gpu_bytes_per_s is not None

    @property
    def gpu_bytes(self) -> float:
        """Memory that the GPU may fill."""
        if self.rates.unified:
            return UNIFIED_SHARE * (self.rates.ram_bytes or 0.0)
        return self.rates.vram_bytes or 0.0


UNIFIED_SHARE = 0.75
"""Of a memory that CPU and GPU share, what the system lets the GPU take: ESTIMATED, macOS's default for large ones."""


def read_machine(words: str, shares: Mapping[str, float]) -> ForecastMachine:
    """The machine that `hardware=` names. ``shares``: of nominal rates that software reaches, FITTED, by name.

    Raises: UserError where no part of it is known, or where what a forecast needs is missing.
    """
    if words.endswith(".yaml") or words in hardware_names():
        return of_file(load_hardware(words), words, shares)
    return of_parts(words)


def files_alike(words: str) -> list[str]:
    """Hardware files of a GPU of which nothing else is said: rtx4070_ddr5 of RTX 4070."""
    return [name for name in hardware_names() if name.split("_")[0] == words.lower().replace(" ", "")]


def of_file(file: Hardware, words: str, shares: Mapping[str, float]) -> ForecastMachine:
    """From a hardware file, whose rates of DRAM and link are what software reaches, not what a datasheet says.

    Raises: UserError for a file of `calibrate` in which the CPU plays the GPU.
    """
    if file.sources.get("link_bytes_per_s", "").startswith("EMULATED"):
        raise UserError(f"hardware={words}: its link is EMULATED, and the CPU plays the GPU: take hardware=here")
    told = " | ".join(
        (
            *(file.sources.get(name, "") for name in ("cpu_cores", "cpu_core_flops_per_s", "cpu_memory_bytes_per_s")),
            file.name,
        )
    )
    cpu = find(told, ("cpu",), shipped_parts()) or _cpu_by_words(told)
    gpu = file.gpu_memory_bytes >= NO_GPU_BYTES
    spread = {
        name: file.uncertainty.get(figure, 0.02 if measured(file, figure) else DEFAULT_SPREAD[name])
        for name, figure in (
            ("gpu", "gpu_memory_bytes_per_s"),
            ("ram", "cpu_memory_bytes_per_s"),
            ("link", "link_bytes_per_s"),
        )
    }
    nominal = file.gpu_memory_bytes_per_s / (shares["gpu_share"] if measured(file, "gpu_memory_bytes_per_s") else 1.0)
    part = Part(
        file.name, "gpu", "", file.gpu_memory_bytes / 2**30, nominal / 1e9, file.gpu_flops_per_s / 1e12,
        0, 0, 0, 0, 0, spread["gpu"], "", words,
    )  # fmt: skip
    ram = file.cpu_memory_bytes_per_s or (file.cpu_core_bytes_per_s or 0.0) * (file.cpu_cores or 1) or None
    storage = rate_at(file, READAHEAD_BYTES, 1, True) if file.storage_rates else None
    host = file.gpu_memory_bytes if file.unified_memory else file.host_memory_bytes
    rates = Rates(
        name=words,
        gpu=part if gpu else None,
        cpu=cpu,
        gpu_bytes_per_s=nominal if gpu else None,
        unified=file.unified_memory,
        gpu_count=1,
        ram_bytes_per_s=None if ram is None else ram / shares["dram_share"],
        ram_known=None if ram is None else STATED,
        cores=file.cpu_cores,
        link_bytes_per_s=file.link_bytes_per_s / shares["link_share"] if gpu else None,
        link_known=STATED if gpu else None,
        storage_bytes_per_s=storage,
        ram_bytes=None if host is None else float(host),
        vram_bytes=float(file.gpu_memory_bytes) if gpu else None,
        ram_uncertainty=spread["ram"],
        link_uncertainty=spread["link"],
    )
    return ForecastMachine(words, rates, tuple(_how_of_file(file, words)), file)


def measured(file: Hardware, figure: str) -> bool:
    """Whether a figure of a file was measured on the machine."""
    return file.sources.get(figure, "").startswith("MEASURED")


def _how_of_file(file: Hardware, words: str) -> list[str]:
    """How the figures of a file that count most are known."""
    shown = {"RAM": "cpu_memory_bytes_per_s", "GPU": "gpu_memory_bytes_per_s", "link": "link_bytes_per_s"}
    labels = {name: _label(file.sources.get(figure, "not stated")) for name, figure in shown.items()}
    if file.gpu_memory_bytes < NO_GPU_BYTES:
        labels = {"RAM": labels["RAM"], "GPU": "none"}
    noisy = " (NOT QUIET)" if any("NOT QUIET" in source for source in file.sources.values()) else ""
    return [f"hardware file {words}: " + ", ".join(f"{name} {label}" for name, label in labels.items()) + noisy]


def _label(source: str) -> str:
    """How a figure is known, and when it was measured."""
    label, day = source.split(":")[0], re.search(r"\d{4}-\d\d-\d\d", source)
    return f"{label} on {day[0]}" if day and label == "MEASURED" else label


def _cpu_by_words(told: str) -> Part | None:
    """A CPU of which only the width of its vectors is told."""
    for pattern, vector in ((r"\bamx\b", "amx"), (r"avx-?512", "avx512"), (r"avx-?2", "avx2"), (r"neon", "neon")):
        if re.search(pattern, told, re.I):
            return Part("CPU", "cpu", "", 0, 0, 0, 0, 0, 0, 0, 0, 0, vector, "")
    return None


def of_parts(words: str) -> ForecastMachine:
    """From names of parts after commas: "RTX 4070 12GB, Ryzen 7 7700, 2ch DDR5-5600, 64 GB RAM".

    Raises: UserError for a part that is not known, and where neither a GPU nor a CPU is named.
    """
    pieces = [piece.strip() for piece in re.split(r"[,+;]", words) if piece.strip()]
    cells = dict.fromkeys(MACHINE_COLUMNS, "") | {"machine_id": words, "gpu_count": "1", "source": "hardware="}
    not_read: list[str] = []
    drives = [piece for piece in pieces if _drive_alone(piece)]
    for piece in pieces:
        if piece in drives:
            continue
        not_read += _unread(piece)
        for column, text in _columns(piece, words).items():
            if cells[column]:
                what = column.partition("_")[0].upper()
                raise UserError(f"hardware={words}: {piece!r} says {what} a second time: a forecast is of one of each")
            cells[column] = text
    if not cells["gpu"] and not cells["cpu"]:
        raise UserError(f"hardware={words}: no GPU or CPU of parts.csv is named: {HOW}")
    rates = rates_of(StatedMachine(**cells))
    if rates.gpu_count != 1:
        raise UserError(f"hardware={words}: several GPUs: a forecast is of one")
    if rates.unified and rates.ram_bytes is None and rates.gpu is not None and rates.gpu.memory_gb:
        rates = replace(rates, ram_bytes=rates.gpu.memory_gb * 1e9)
    if rates.unified and rates.ram_bytes is None:
        raise UserError(f"hardware={words}: say how much memory it has, as {words}, 64 GB RAM")
    known = _how(rates, cells)
    if rates.storage_bytes_per_s is None:
        known += [f"{piece}: its rate is not known (5 GB/s ssd says one); what needs it is refused" for piece in drives]
    return ForecastMachine(words, rates, tuple(known), not_read=tuple(not_read))


def _drive_alone(piece: str) -> bool:
    """A drive of which nobody says how fast it reads."""
    parts = find(piece, ("gpu", "unified", "cpu"), shipped_parts())
    other = re.search(r"b/s|ddr\d|\bram\b|memory|pcie", piece, re.I)
    return bool(re.search(_STORAGE, piece, re.I)) and parts is None and other is None


HOW = (
    "name a file of conf/hardware, a yaml, here, or parts with commas, as hardware='RTX 4070, Ryzen 7 7700, "
    "2ch DDR5-5600, 64 GB RAM', a drive as 5 GB/s ssd"
)


def _columns(piece: str, words: str) -> dict[str, str]:
    """Columns of `machines.csv` that a piece of the words fills. Raises: UserError where it says nothing known."""
    sticks = re.search(rf"{_ALONE}(\d{{1,2}}) ?x ?(\d{{1,4}}) ?gi?b\b", piece, re.I)
    memory = re.search(rf"{_ALONE}({NUMBER}) ?gi?b\b(?!/s)(?=$|.*(?:ram|memory|ddr\d|unified))", piece, re.I)
    memory = memory or re.search(rf"(?:ram|memory|ddr\d).*{_ALONE}({NUMBER}) ?gi?b\b(?!/s)", piece, re.I)
    rate = re.search(rf"{_ALONE}({NUMBER}) ?gb/s", piece, re.I)
    cores = re.fullmatch(r"(\d{1,4}) ?cores", piece, re.I)
    found: dict[str, str] = {}
    if rate and re.search(_STORAGE, piece, re.I):
        found = {"storage_gb_s": rate[1]}
    elif rate and re.search(r"link|pcie", piece, re.I):
        found = {"link": piece}
    elif rate and re.search(r"ram|ddr|dram|memory", piece, re.I):
        found = {"ram_bandwidth_gb_s": rate[1]}
    elif find(piece, ("gpu", "unified"), shipped_parts()):
        _check_alone(piece, words)
        found = {"gpu": piece}
    elif find(piece, ("cpu",), shipped_parts()):
        _check_alone(piece, words)
        found = {"cpu": piece}
    elif re.search(_STORAGE, piece, re.I) and not re.search(r"b/s", piece, re.I):
        raise UserError(f"hardware={words}: {piece!r} does not say how fast it reads: say it, as 5 GB/s ssd")
    elif re.search(r"pcie", piece, re.I):
        found = {"link": piece}
    elif cores:
        found = {"cpu_cores": cores[1]}
    else:
        if memory or sticks:
            found["ram_gb"] = memory[1] if memory else str(int(sticks[1]) * int(sticks[2]))  # type: ignore[index]
        if re.search(r"ddr\d", piece, re.I):
            found["ram_type"] = _ram_type(piece)
    numbers = [found[name] for name in ("storage_gb_s", "ram_bandwidth_gb_s", "ram_gb", "cpu_cores") if name in found]
    if not found or any(not 0 < float(number.replace(",", "")) <= LARGEST for number in numbers):
        alike = files_alike(words)
        hint = f"did you mean {' or '.join(alike)}? Else " if alike else ""
        raise UserError(f"hardware={words}: {piece!r} is not known: {hint}{HOW}")
    return found


_CHANNELS = {
    "single": 1, "one": 1, "dual": 2, "two": 2, "quad": 4, "four": 4, "six": 6, "octa": 8, "eight": 8, "twelve": 12,
}  # fmt: skip
_SPEED = r"(?<![\d.,])(?:[1-9]\d{3}|1\d{4})(?!\d| ?gi?b)"


def _ram_type(piece: str) -> str:
    """RAM as parts.csv's rules read it, 2ch DDR5-5600, however it is said."""
    kind = re.search(r"(?:lp)?ddr\dx?", piece, re.I)
    named = re.search(rf"\b({'|'.join(_CHANNELS)}|\d{{1,2}})[ -]?(?:ch\b|channels?)", piece, re.I)
    speed = re.search(_SPEED, piece, re.I)
    channels = "" if named is None else f"{_CHANNELS.get(named[1].lower(), named[1])}ch "
    return f"{channels}{kind[0] if kind else ''}{'-' + speed[0] if speed else ''}"


def _unread(piece: str) -> list[str]:
    """Words about RAM that are not understood."""
    if not re.search(r"ddr\d", piece, re.I) or re.search(r"gb/s", piece, re.I):
        return []
    channels = rf"\b(?:{'|'.join(_CHANNELS)}|\d{{1,2}})[ -]?(?:ch\b|channels?)"
    sizes = rf"\d{{1,2}} ?x ?\d{{1,4}} ?gi?b|(?:{NUMBER}) ?gi?b"
    rest = re.sub(
        rf"{channels}|{sizes}|(?:lp)?ddr\dx?|{_SPEED}(?: ?(?:mhz|mt/s|mts)\b)?|{_FILLERS}", " ", piece, flags=re.I
    )
    return [f"{rest.strip()!r} of {piece!r}"] if re.search(r"\w", rest) else []


_FILLERS = r"\b(?:ram|memory|system|of|at|with|in|kit|dimm|sodimm|udimm|rdimm|ecc|unified|expo|xmp|cl ?\d+)\b"


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
    if rates.ram_known == SPECIFIED and re.search(_SPEED, ram_type):
        said.append(f"RAM {ram_type}, channels as the CPU's datasheet has them")
    elif rates.ram_known == SPECIFIED and re.search("ch ", ram_type):
        said.append(f"RAM {ram_type}, as fast as the CPU's datasheet allows")
    elif rates.ram_known == SPECIFIED:
        said.append("RAM as fast as the CPU's datasheet allows: say yours, as 2ch DDR5-5600")
    return said


def _taken(part: str, named: str) -> str:
    """A part, and what it stands for where another of its line was named: Ryzen 5 5600 for Ryzen 5 5600X."""
    words = re.split(r"[ -]", named.lower())
    own = all(word in words for word in re.split(r"[ -]", part.lower()) if re.search(r"\d", word))
    return part if own or not named else f"{part}, as which {named} is taken"


def with_next_link(rates: Rates) -> float | None:
    """The rate of the same lanes of the next generation of PCIe; None where there is none faster."""
    if rates.link_bytes_per_s is None or rates.unified:
        return None
    return 2.0 * rates.link_bytes_per_s if rates.link_bytes_per_s < 1.5e9 * LANE_GB_S[5] * 8 else None
