"""What a machine can do: the schema of `conf/hardware/*.yaml`, checked on construction."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from omegaconf import OmegaConf

from sim.config import read_yaml
from sim.paths import CONF, yaml_names
from sim.ranges import Range
from traces.errors import UserError

LARGEST = 1e300
HARDWARE_FOLDER = CONF / "hardware"

# From most to least trusted; EMULATED is what was measured of something that software only imitates, as a paced link.
# A file as a whole is worth no more than its weakest figure.
LABELS = ("MEASURED", "PUBLISHED", "EMULATED", "FITTED", "ESTIMATED")


POSITIVE, NOT_NEGATIVE, AT_LEAST_ONE = Range(0, above=True), Range(0), Range(1)


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a number of a hardware file may be, and which times rest on it."""

    parts: tuple[str, ...]
    """Parts of a token's time that are as uncertain as the number; () where its uncertainty is not passed on."""
    limit: Range = NOT_NEGATIVE
    whole: bool = False
    """Only whole numbers make sense."""
    each_layer: str | None = None
    """BEFORE_LOOKUP or AFTER_EXPERTS: seconds that every layer spends then; ``parts`` names the one they belong to."""
    switch: str = ""
    """Field of ``sim.config.TimeConfig`` that switches such a constant off."""


BEFORE_LOOKUP, AFTER_EXPERTS = "before the lookup", "after the experts"
GPU, CPU, LINK, LAUNCH, HOST = ("attention", "expert"), ("cpu",), ("link",), ("launch",), ("host",)


@dataclass(frozen=True, slots=True)
class Hardware:
    """One GPU, its host and the link between them; every time in seconds, every rate per second.

    A new constant per layer is a field here with ``each_layer``, its switch in ``sim.config.TimeConfig`` and in
    `conf/knobs/time.yaml`, and its value and source in `conf/hardware`; durations, engines, what-if and the error of a
    calibration follow from the field, and ``tests/sim/engine/test_time_switches.py`` holds it to its part.

    Raises: UserError when a figure is missing, not a number, out of range, or when label and sources do not fit.
    """

    name: str
    gpu_memory_bytes: Annotated[int, Parameter((), POSITIVE, whole=True)]
    gpu_memory_bytes_per_s: Annotated[float, Parameter(GPU, POSITIVE)]
    gpu_flops_per_s: Annotated[float, Parameter(GPU, POSITIVE)]
    """Dense 16-bit, as reached or as the source states it."""
    link_latency_s: Annotated[float, Parameter(LINK)]
    """Fixed time of one copy."""
    link_bytes_per_s: Annotated[float, Parameter(LINK, POSITIVE)]
    """Bandwidth that a large pinned copy reaches."""
    link_half_bytes: Annotated[float, Parameter(())] = 0.0
    """Size x_half at which a copy reaches half of it, beta(x) = beta_inf * x / (x + x_half); 0: no such loss."""
    link_call_s: Annotated[float, Parameter(HOST)] = 0.0
    """Host time to issue one copy."""
    cpu_expert_bytes_per_s: Annotated[float | None, Parameter(CPU, POSITIVE)] = None
    """DRAM bandwidth that the CPU reaches on an expert. With neither this nor the next, rules that compute on the CPU
    are refused."""
    cpu_load_ratio: Annotated[float | None, Parameter(CPU, POSITIVE)] = None
    """The CPU's time for an expert as a share of the time to load it."""
    cpu_flops_per_s: Annotated[float | None, Parameter(CPU, POSITIVE)] = None
    launch_s: Annotated[float, Parameter(LAUNCH)] = 0.0
    """Launch of one kernel."""
    kernels_per_expert: Annotated[int, Parameter(LAUNCH, whole=True)] = 0
    kernels_per_layer: Annotated[int, Parameter(LAUNCH, whole=True)] = 0
    """All others of a layer."""
    readback_s: Annotated[float, Parameter(("sync",), each_layer=BEFORE_LOOKUP, switch="readback")] = 0.0
    """Copying the router's choice from the GPU to the host."""
    sync_s: Annotated[float, Parameter(("sync",), each_layer=AFTER_EXPERTS, switch="sync")] = 0.0
    """Synchronisation at the end of a layer."""
    host_s_per_layer: Annotated[float, Parameter(HOST, each_layer=BEFORE_LOOKUP, switch="host")] = 0.0
    """Host bookkeeping in one MoE layer."""
    staging_slots: Annotated[int, Parameter((), AT_LEAST_ONE, whole=True)] = 1
    """Buffers for experts that bypass the cache."""
    copies_per_expert: Annotated[int, Parameter((), AT_LEAST_ONE, whole=True)] = 1
    """Tensors that make an expert, each copied by a call of its own, with its own latency."""
    link_back_bytes_per_s: Annotated[float | None, Parameter((), POSITIVE)] = None
    """The other direction; None: as fast."""
    pageable_latency_s: Annotated[float, Parameter(())] = 0.0
    """Copies from pageable memory."""
    pageable_bytes_per_s: Annotated[float | None, Parameter(LINK, POSITIVE)] = None
    pageable_call_s: Annotated[float, Parameter(())] = 0.0
    """How long the call of a pageable copy holds the host."""
    staging_bytes_per_s: Annotated[float | None, Parameter(LINK, POSITIVE)] = None
    """The host's copy into a pinned buffer ahead of a staged copy."""
    link_contention: Annotated[float, Parameter((), AT_LEAST_ONE)] = 1.0
    """How many times longer a copy takes while the CPU computes experts: they share DRAM."""
    cpu_contention: Annotated[float, Parameter((), AT_LEAST_ONE)] = 1.0
    """How many times longer a CPU expert takes while the link copies."""
    graph_launch_s: Annotated[float | None, Parameter(LAUNCH)] = None
    """Launch of one captured CUDA graph in place of single kernels."""
    decision_s_per_layer: Annotated[float, Parameter(HOST, each_layer=BEFORE_LOOKUP, switch="decision")] = 0.0
    """What the policy's decisions add to the host's bookkeeping, where it is known apart."""
    dequantise_bytes_per_s: Annotated[float | None, Parameter((), POSITIVE)] = None
    """Rate at which a low-precision expert is expanded, in bytes of the result."""
    label: str = "ESTIMATED"
    """Speaks for the file as a whole; may not claim more than the weakest source."""
    sources: dict[str, str] = field(default_factory=dict)
    """For each figure how it is known (one of `LABELS`) and where it comes from."""
    uncertainty: dict[str, float] = field(default_factory=dict)
    """Relative standard errors of figures, where a calibration has them."""

    def __post_init__(self) -> None:
        for name, parameter in PARAMETERS.items():
            _check_figure(self.name, name, parameter, getattr(self, name))
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


PARAMETERS: dict[str, Parameter] = {
    name: parameter
    for name, hint in get_type_hints(Hardware, include_extras=True).items()
    for parameter in getattr(hint, "__metadata__", ())
}
"""Every number of a hardware file, in the order of the fields."""
FIGURES = tuple(PARAMETERS)
OPTIONAL = {name for name in FIGURES if Hardware.__dataclass_fields__[name].default is None}


def hardware_names() -> list[str]:
    """Names of the machines described in `conf/hardware`."""
    return yaml_names(HARDWARE_FOLDER)


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
    config = OmegaConf.to_container(read_yaml(path, "the hardware file"))
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
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(Hardware)}
    name = config.get("name", "without a name")
    for key in config:
        if key not in known:
            raise UserError(
                f"hardware {name}: {key} is not a field of a machine: the fields are {', '.join(sorted(known))}"
            )
    for key, required in known.items():
        if required and config.get(key) is None:
            raise UserError(f"hardware {name}: {key} is missing: state it, with its source")
    tables = ("sources", "uncertainty")
    for table in tables:
        if not isinstance(config.get(table) or {}, Mapping):
            raise UserError(f"hardware {name}: {table}={config[table]!r} must hold one entry per figure")
    values: dict[str, Any] = {key: dict(value or {}) if key in tables else value for key, value in config.items()}
    return Hardware(**values)


def path_overrides(argument: str) -> list[str]:
    """`hardware=<path ending in .yaml>`, or several after commas, as Hydra takes it; anything else stays as it is."""
    name, _, value = argument.partition("=")
    paths = value.split(",")
    if name != "hardware" or not all(path.endswith(".yaml") for path in paths):
        return [argument]
    quoted = ["'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'" for path in paths]
    return ["~hardware", f"+hardware.path={','.join(quoted)}"]


def _check_figure(machine: str, name: str, parameter: Parameter, value: Any) -> None:
    if value is None and name in OPTIONAL:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if not number or not math.isfinite(value):
        raise UserError(f"hardware {machine}: {name}={value!r} must be a finite number")
    if parameter.whole and not float(value).is_integer():
        raise UserError(f"hardware {machine}: {name}={value} must be a whole number")
    if not parameter.limit.holds(value):
        raise UserError(f"hardware {machine}: {name}={value}: must be {parameter.limit}")


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
        if isinstance(value, bool) or not isinstance(value, int | float) or not NOT_NEGATIVE.holds(value):
            raise UserError(f"hardware {machine.name}: uncertainty.{name}={value!r} must be 0 or above")
