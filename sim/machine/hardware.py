"""What a machine can do, apart from the software on it: the schema of `conf/hardware/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from sim.machine.figures import (
    AT_LEAST_ONE,
    CPU,
    GPU,
    LINK,
    POSITIVE,
    STORAGE,
    Figures,
    Parameter,
    Rows,
    Table,
    optional_of,
    parameters_of,
)
from sim.paths import CONF, yaml_names

HARDWARE_FOLDER = CONF / "hardware"


@dataclass(frozen=True, slots=True)
class Hardware(Figures):
    """One GPU, its host and the link between them: sizes in bytes, times in seconds, rates per second.

    What software costs on it is in ``sim.machine.runtime``.

    Raises: UserError when a figure is missing, not a number, out of range, or when label and sources do not fit.
    """

    KIND: ClassVar[str] = "hardware"

    gpu_memory_bytes: Annotated[int, Parameter((), POSITIVE, whole=True)]
    gpu_memory_bytes_per_s: Annotated[float, Parameter(GPU, POSITIVE)]
    """As the datasheet states it; kernels reach the runtime's ``gpu_memory_share`` of it."""
    gpu_flops_per_s: Annotated[float, Parameter(GPU, POSITIVE)]
    """Dense 16-bit, as reached or as the source states it."""
    link_latency_s: Annotated[float, Parameter(LINK)]
    """Fixed time of one copy."""
    link_bytes_per_s: Annotated[float, Parameter(LINK, POSITIVE)]
    """Bandwidth that a large pinned copy reaches."""
    link_half_bytes: Annotated[float, Parameter(())] = 0.0
    """Size x_half at which a copy reaches half of it, beta(x) = beta_inf * x / (x + x_half); 0: no such loss."""
    link_back_bytes_per_s: Annotated[float | None, Parameter((), POSITIVE)] = None
    """The other direction; None: as fast."""
    pageable_latency_s: Annotated[float, Parameter(())] = 0.0
    """Copies from pageable memory."""
    pageable_bytes_per_s: Annotated[float | None, Parameter(LINK, POSITIVE)] = None
    staging_bytes_per_s: Annotated[float | None, Parameter(LINK, POSITIVE)] = None
    """The host's copy into a pinned buffer ahead of a staged copy."""
    cpu_cores: Annotated[int | None, Parameter((), AT_LEAST_ONE, whole=True)] = None
    """Cores that the CPU has."""
    cpu_memory_bytes_per_s: Annotated[float | None, Parameter(CPU, POSITIVE)] = None
    """DRAM rate that all cores together reach on the weights of an expert."""
    cpu_core_bytes_per_s: Annotated[float | None, Parameter(CPU, POSITIVE)] = None
    """Rate at which one core gets through the weights of an expert on one token. With neither this nor
    ``cpu_memory_bytes_per_s``, rules that compute on the CPU are refused."""
    cpu_core_flops_per_s: Annotated[float | None, Parameter(CPU, POSITIVE)] = None
    """Arithmetic of one core."""
    link_contention: Annotated[float, Parameter((), AT_LEAST_ONE)] = 1.0
    """How many times longer a copy takes while the CPU computes experts: they share DRAM."""
    cpu_contention: Annotated[float, Parameter((), AT_LEAST_ONE)] = 1.0
    """How many times longer a CPU expert takes while the link copies."""

    host_memory_bytes: Annotated[int | None, Parameter((), POSITIVE, whole=True)] = None
    """None: host memory holds any model."""
    unified_memory: bool = False
    """The GPU reads host memory at ``gpu_memory_bytes_per_s``: slots are all that there is (``gpu_memory_bytes``), and
    what they lack comes from storage without a copy."""
    storage_latency_s: Annotated[float | None, Parameter(STORAGE)] = None
    """Until the first byte of an expert's first request; None: 0."""
    storage_rates: Annotated[Rows | None, Table(("request bytes", "requests at once", "random", "sequential"))] = None
    """Rows of (bytes of a request, requests under way at once, bytes per second read in random order, in order); see
    ``sim.machine.storage.rate_at``. None: there is no storage to read experts from."""

    @property
    def has_cpu(self) -> bool:
        """Whether the time of an expert on the CPU is known."""
        return self.cpu_memory_bytes_per_s is not None or self.cpu_core_bytes_per_s is not None


PARAMETERS: dict[str, Parameter] = parameters_of(Hardware)
"""Every number of a hardware file, in the order of the fields."""
FIGURES = tuple(PARAMETERS)
OPTIONAL = optional_of(Hardware)


def hardware_names() -> list[str]:
    """Names of the machines described in `conf/hardware`."""
    return yaml_names(HARDWARE_FOLDER)


def load_hardware(name: str) -> Hardware:
    """The machine described in `conf/hardware/<name>.yaml`, or in the file at a path that ends in .yaml.

    Raises: UserError when there is no such file, or when a field in it is unknown, missing or out of range.
    """
    return Hardware.load(name, HARDWARE_FOLDER)


def read_hardware(path: Path) -> Hardware:
    """The machine described in a file. Raises UserError when it cannot be read, or holds no possible machine."""
    return Hardware.read(path)


def hardware_from_config(config: Mapping[str, Any]) -> Hardware:
    """The machine given as plain `field: value` pairs, for example the `hardware` group of a composed configuration.

    Raises: UserError that names the first unknown, missing or impossible field.
    """
    return Hardware.from_config(config)
