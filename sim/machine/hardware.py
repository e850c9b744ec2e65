"""What a machine can do: the schema of `conf/hardware/*.yaml`, checked on construction."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sim.paths import CONF
from traces.errors import UserError

LARGEST = 1e300
HARDWARE_FOLDER = CONF / "hardware"

# From most to least trusted; EMULATED is what was measured of something that software only imitates, as a paced link.
# A file as a whole is worth no more than its weakest figure.
LABELS = ("MEASURED", "PUBLISHED", "EMULATED", "FITTED", "ESTIMATED")

_POSITIVE = (
    "gpu_memory_bytes",
    "gpu_memory_bytes_per_s",
    "gpu_flops_per_s",
    "link_bytes_per_s",
    "cpu_expert_bytes_per_s",
    "cpu_load_ratio",
    "cpu_flops_per_s",
    "link_back_bytes_per_s",
    "pageable_bytes_per_s",
    "staging_bytes_per_s",
    "dequantise_bytes_per_s",
)
_NOT_NEGATIVE = (
    "link_latency_s",
    "link_half_bytes",
    "link_call_s",
    "launch_s",
    "kernels_per_expert",
    "kernels_per_layer",
    "readback_s",
    "sync_s",
    "host_s_per_layer",
    "decision_s_per_layer",
    "pageable_latency_s",
    "pageable_call_s",
    "graph_launch_s",
)
_AT_LEAST_ONE = ("staging_slots", "copies_per_expert", "link_contention", "cpu_contention")
_COUNTS = ("gpu_memory_bytes", "kernels_per_expert", "kernels_per_layer", "staging_slots", "copies_per_expert")
_OPTIONAL = (
    "cpu_expert_bytes_per_s",
    "cpu_load_ratio",
    "cpu_flops_per_s",
    "link_back_bytes_per_s",
    "pageable_bytes_per_s",
    "staging_bytes_per_s",
    "dequantise_bytes_per_s",
    "graph_launch_s",
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """One GPU, its host and the link between them; every time in seconds, every rate per second.

    `gpu_flops_per_s`: dense 16-bit, as reached or as the source states it. `link_latency_s`: fixed time of one copy.
    `link_bytes_per_s`: bandwidth that a large pinned copy reaches. `link_half_bytes`: size at which a copy reaches half
    of it, beta(x) = beta_inf * x / (x + x_half); 0 means no such loss. `link_call_s`: host time to issue one copy.
    The CPU's time for an expert is stated as the DRAM bandwidth it reaches (`cpu_expert_bytes_per_s`), or as a share of
    the time to load the expert (`cpu_load_ratio`), or not at all: then rules that compute on the CPU are refused.
    `copies_per_expert`: tensors that make an expert, each copied by a call of its own, with its own latency.
    `link_back_bytes_per_s`: the other direction; null: as fast. `pageable_*`: copies from pageable memory, whose call
    holds the host for `pageable_call_s`. `staging_bytes_per_s`: the host's copy into a pinned buffer ahead of a staged
    copy. `link_contention`, `cpu_contention`: how many times longer a copy takes while the CPU computes experts, and a
    CPU expert while the link copies (they share DRAM). `graph_launch_s`: launch of one captured CUDA graph in place of
    single kernels. `dequantise_bytes_per_s`: rate at which a low-precision expert is expanded, in bytes of the result.
    `readback_s`: the router's choice read back from the GPU. `sync_s`: synchronisation at the end of a layer.
    `host_s_per_layer`: bookkeeping of the host in one MoE layer; `decision_s_per_layer`: what the policy's decisions
    add to it, where it is known apart. `staging_slots`: buffers for experts that pass by the cache. `sources` says for
    each figure how it is known (it begins with one of `LABELS`) and where it
    comes from; `label` speaks for the file as a whole and may not claim more than the weakest of them. `uncertainty`
    gives relative standard errors of figures, where a calibration has them.

    Raises: UserError when a figure is missing, not a number, out of range, or when label and sources do not fit.
    """

    name: str
    gpu_memory_bytes: int
    gpu_memory_bytes_per_s: float
    gpu_flops_per_s: float
    link_latency_s: float
    link_bytes_per_s: float
    link_half_bytes: float = 0.0
    link_call_s: float = 0.0
    cpu_expert_bytes_per_s: float | None = None
    cpu_load_ratio: float | None = None
    cpu_flops_per_s: float | None = None
    launch_s: float = 0.0
    kernels_per_expert: int = 0
    kernels_per_layer: int = 0
    readback_s: float = 0.0
    sync_s: float = 0.0
    host_s_per_layer: float = 0.0
    staging_slots: int = 1
    copies_per_expert: int = 1
    link_back_bytes_per_s: float | None = None
    pageable_latency_s: float = 0.0
    pageable_bytes_per_s: float | None = None
    pageable_call_s: float = 0.0
    staging_bytes_per_s: float | None = None
    link_contention: float = 1.0
    cpu_contention: float = 1.0
    graph_launch_s: float | None = None
    decision_s_per_layer: float = 0.0
    dequantise_bytes_per_s: float | None = None
    label: str = "ESTIMATED"
    sources: dict[str, str] = field(default_factory=dict)
    uncertainty: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in FIGURES:
            _check_figure(self.name, name, getattr(self, name))
        if self.cpu_expert_bytes_per_s is not None and self.cpu_load_ratio is not None:
            raise UserError(
                f"hardware {self.name}: cpu_expert_bytes_per_s={self.cpu_expert_bytes_per_s} and "
                f"cpu_load_ratio={self.cpu_load_ratio} are both stated: state one of them, or neither"
            )
        if self.label not in LABELS:
            raise UserError(f"hardware {self.name}: label={self.label!r} is not one of {', '.join(LABELS)}")
        _check_sources(self)
        _check_uncertainty(self)

    @property
    def has_cpu(self) -> bool:
        """Whether the time of an expert on the CPU is known."""
        return self.cpu_expert_bytes_per_s is not None or self.cpu_load_ratio is not None


NOT_FIGURES = ("name", "label", "sources", "uncertainty")
FIGURES = tuple(f.name for f in fields(Hardware) if f.name not in NOT_FIGURES)


def hardware_names() -> list[str]:
    """Names of the machines described in `conf/hardware`."""
    return sorted(path.stem for path in HARDWARE_FOLDER.glob("*.yaml"))


def load_hardware(name: str) -> Hardware:
    """The machine described in `conf/hardware/<name>.yaml`, or in the file at a path that ends in .yaml.

    Raises: UserError when there is no such file, or when a field in it is unknown, missing or out of range.
    """
    if name.endswith(".yaml"):
        return read_hardware(Path(name).expanduser())
    if name not in hardware_names():
        raise UserError(
            f"hardware={name} is not known: choose one of {', '.join(hardware_names())}, or the path of a *.yaml file"
        )
    return read_hardware(HARDWARE_FOLDER / f"{name}.yaml")


def read_hardware(path: Path) -> Hardware:
    """The machine described in a file. Raises UserError when it cannot be read, or holds no possible machine."""
    if not path.is_file():
        raise UserError(f"hardware={path}: there is no such file")
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"the hardware file {path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"the hardware file {path} must hold a list of `field: value` lines")
    return hardware_from_config({str(key): value for key, value in config.items()})


def hardware_from_config(config: Mapping[str, Any]) -> Hardware:
    """The machine given as plain `field: value` pairs, for example the `hardware` group of a composed configuration.

    A group that holds nothing but `path` names the file of a machine.

    Raises: UserError that names the first unknown, missing or impossible field.
    """
    if config.keys() == {"path"}:
        return read_hardware(Path(str(config["path"])).expanduser())
    known = {f.name for f in fields(Hardware)}
    name = config.get("name", "without a name")
    for key in config:
        if key not in known:
            raise UserError(
                f"hardware {name}: {key} is not a field of a machine: the fields are {', '.join(sorted(known))}"
            )
    required = ["name", *FIGURES[: FIGURES.index("link_bytes_per_s") + 1]]
    for key in required:
        if config.get(key) is None:
            raise UserError(f"hardware {name}: {key} is missing: state it, with its source")
    tables = ("sources", "uncertainty")
    for table in tables:
        if not isinstance(config.get(table) or {}, Mapping):
            raise UserError(f"hardware {name}: {table}={config[table]!r} must hold one entry per figure")
    values: dict[str, Any] = {key: dict(value or {}) if key in tables else value for key, value in config.items()}
    values.setdefault("sources", {})
    return Hardware(**values)


def path_overrides(argument: str) -> list[str]:
    """`hardware=<path ending in .yaml>`, or several after commas, as Hydra takes it; anything else stays as it is."""
    name, _, value = argument.partition("=")
    paths = value.split(",")
    if name != "hardware" or not all(path.endswith(".yaml") for path in paths):
        return [argument]
    quoted = ["'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'" for path in paths]
    return ["~hardware", f"+hardware.path={','.join(quoted)}"]


def _check_figure(machine: str, name: str, value: Any) -> None:
    if value is None and name in _OPTIONAL:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if not number or not math.isfinite(value):
        raise UserError(f"hardware {machine}: {name}={value!r} must be a finite number")
    if name in _COUNTS and not float(value).is_integer():
        raise UserError(f"hardware {machine}: {name}={value} must be a whole number")
    if name in _POSITIVE and value <= 0:
        raise UserError(f"hardware {machine}: {name}={value} must be above zero")
    if name in _NOT_NEGATIVE and value < 0:
        raise UserError(f"hardware {machine}: {name}={value} must not be negative")
    if name in _AT_LEAST_ONE and value < 1:
        raise UserError(f"hardware {machine}: {name}={value} must be at least 1")


def _check_sources(machine: Hardware) -> None:
    weakest = 0
    for name, source in machine.sources.items():
        if name not in FIGURES:
            raise UserError(f"hardware {machine.name}: sources.{name} names no figure of this machine")
        label = str(source).split(":", 1)[0]
        if label not in LABELS:
            raise UserError(
                f"hardware {machine.name}: sources.{name}={source!r} must begin with one of "
                f"{', '.join(LABELS)} and a colon"
            )
        weakest = max(weakest, LABELS.index(label))
    if LABELS.index(machine.label) < weakest:
        raise UserError(
            f"hardware {machine.name}: label={machine.label} claims more than its weakest source, "
            f"which is {LABELS[weakest]}"
        )


def _check_uncertainty(machine: Hardware) -> None:
    for name, value in machine.uncertainty.items():
        if name not in FIGURES:
            raise UserError(f"hardware {machine.name}: uncertainty.{name} names no figure of this machine")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UserError(f"hardware {machine.name}: uncertainty.{name}={value!r} must be 0 or above")
