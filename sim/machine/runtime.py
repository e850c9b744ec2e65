"""What a piece of software costs and can do, apart from the machine it runs on: the schema of `conf/runtime/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from sim.group_files import SET
from sim.machine.figures import (
    AFTER_EXPERTS,
    AT_LEAST_ONE,
    BEFORE_LOOKUP,
    CPU,
    GPU,
    HOST,
    LAUNCH,
    POSITIVE,
    SHARE,
    STORAGE,
    SYNC,
    Figures,
    Parameter,
    parameters_of,
)
from sim.paths import CONF, yaml_names
from sim.ranges import OneOf
from traces.errors import UserError

RUNTIME_FOLDER = CONF / "runtime"
DEFAULT = "smoe_2026_07"
"""What a policy that names no runtime runs on where each runs on its own."""
OWN = "own"
"""`runtime=own`: the runtime that a policy names in its yaml."""
SAME_RUNTIME, OWN_RUNTIME = "same runtime", "each on its own runtime"
"""The two comparisons: of the rules alone, or of every policy with the software that it was published with."""


@dataclass(frozen=True, slots=True)
class Runtime(Figures):
    """Software that decodes with offloaded experts on one device; times in seconds.

    A new constant per layer is a field here with ``each_layer``, its switch in ``sim.config.TimeConfig`` and in
    `conf/knobs/time.yaml`, and its value and source in `conf/runtime`; durations, engines, what-if and the error of a
    calibration follow from the field, and ``tests/sim/engine/test_time_switches.py`` holds it to its part.

    Raises: UserError when a figure is missing, not a number, out of range, or when label and sources do not fit.
    """

    KIND: ClassVar[str] = "runtime"

    host_s_per_layer: Annotated[float, Parameter(HOST, each_layer=BEFORE_LOOKUP, switch="host")] = 0.0
    """What the framework on the host adds to a MoE layer beside launches, with experts offloaded or not."""
    decision_s_per_layer: Annotated[
        float, Parameter(HOST, each_layer=BEFORE_LOOKUP, switch="decision", offloading=True)
    ] = 0.0
    """Looking up, deciding and queueing in one layer, where experts are offloaded."""
    launch_s: Annotated[float, Parameter(LAUNCH)] = 0.0
    """Launch of one kernel."""
    kernels_per_expert: Annotated[int, Parameter(LAUNCH, whole=True)] = 0
    kernels_per_layer: Annotated[int, Parameter(LAUNCH, whole=True)] = 0
    """All others of a layer."""
    cuda_graphs: bool = False
    """One launch per expert and one per layer, in place of their kernels."""
    graph_launch_s: Annotated[float | None, Parameter(LAUNCH)] = None
    """Launch of one captured graph."""
    readback_s: Annotated[float, Parameter(SYNC, each_layer=BEFORE_LOOKUP, switch="readback", offloading=True)] = 0.0
    """Copying the router's choice from the GPU to the host."""
    sync_s: Annotated[float, Parameter(SYNC, each_layer=AFTER_EXPERTS, switch="sync", offloading=True)] = 0.0
    """Synchronisation at the end of a layer."""
    gpu_memory_share: Annotated[float, Parameter(GPU, SHARE)] = 1.0
    """Share of the machine's ``gpu_memory_bytes_per_s`` that kernels of a decode step reach."""
    dequantises: bool = False
    """Expands the weights of quantised experts to 16 bits whenever they run, instead of reading them as they are."""
    dequantise_share: Annotated[float | None, Parameter((), POSITIVE)] = None
    """Rate of expanding weights, in bytes of the result, as a share of ``gpu_memory_bytes_per_s``."""
    memory: Annotated[str, OneOf("pinned", "pageable", "staged")] = "pinned"
    """How experts lie in host memory: ``pinned`` (asynchronous copies), ``pageable`` (the call holds the host), or
    ``staged`` (the host copies into a pinned buffer first)."""
    copies_per_expert: Annotated[int, Parameter((), AT_LEAST_ONE, whole=True)] = 1
    """Tensors that make an expert, each copied by a call of its own, with its own latency."""
    link_call_s: Annotated[float, Parameter(HOST)] = 0.0
    """Host time to issue one copy."""
    pageable_call_s: Annotated[float, Parameter(())] = 0.0
    """How long the call of a pageable copy holds the host."""
    staging_slots: Annotated[int, Parameter((), AT_LEAST_ONE, whole=True)] = 1
    """Buffers for experts that bypass the cache."""
    run_on_arrival: bool = True
    """Each loaded expert is computed once it has arrived; false: after the last copy of the layer, unless a later one
    has to wait for its slot."""
    late_copy_to_cpu: bool = False
    """A prefetch that is still on the link when its layer comes: the assignment rule may give the expert to the CPU,
    the copy running on."""
    cancel_late_copy: bool = False
    """Stops a prefetch that is still on the link when its layer comes, where the step does not wait for it."""
    cpu_threads: Annotated[int | None, Parameter((), AT_LEAST_ONE, whole=True)] = None
    """Cores that compute experts, at most those of the machine; None: all of them, one where it states none."""
    cpu_overlaps_gpu: bool = True
    """Experts of one layer run on GPU and CPU at once; false: the GPU's follow the CPU's."""
    cpu_transfer_s: Annotated[float, Parameter(CPU)] = 0.0
    """Bringing the activations of a layer to the CPU and its results back, beside their bytes; once in a layer of which
    the CPU computes experts."""

    read_bytes: Annotated[int | None, Parameter((), AT_LEAST_ONE, whole=True)] = None
    """Bytes of one request to storage; None: a tensor of an expert."""
    read_depth: Annotated[int | None, Parameter((), AT_LEAST_ONE, whole=True)] = None
    """Requests to storage under way at once; None: 1."""
    install_s: Annotated[float, Parameter(STORAGE)] = 0.0
    """What the host does with an expert that was read from storage before it can be used or sent on, on the thread that
    the next read waits for."""


RUNTIME_PARAMETERS: dict[str, Parameter] = parameters_of(Runtime)
"""Every number of a runtime file, in the order of the fields."""


def runtime_names() -> list[str]:
    """Names of the runtimes described in `conf/runtime`."""
    return [name for name in yaml_names(RUNTIME_FOLDER) if name != OWN]


def load_runtime(name: str) -> Runtime:
    """The software described in `conf/runtime/<name>.yaml`, or in the file at a path that ends in .yaml.

    Raises: UserError when there is no such file, or when a field in it is unknown, missing or out of range.
    """
    if name == OWN:
        raise UserError(f"runtime={OWN} stands for the one that a policy names: it is no runtime itself")
    return Runtime.load(name, RUNTIME_FOLDER)


def runtime_from_config(config: Mapping[str, Any], own: str | None) -> Runtime:
    """The software that the `runtime` group of a composed configuration describes.

    ``own``: the runtime that the policy names, which stands in for `runtime=own`; figures that are stated beside it on
    the command line replace its own.

    Raises: UserError that names the first unknown, missing or impossible field.
    """
    if config.get("name") != OWN:
        return Runtime.from_config(config)
    base = load_runtime(own or DEFAULT)
    told = ("name", "label", "sources", "uncertainty")
    stated = {key: value for key, value in config.items() if key not in told and value is not None}
    values = {f.name: getattr(base, f.name) for f in fields(base)} | stated
    sources = dict(base.sources) | dict.fromkeys(stated, SET) | dict(config.get("sources") or {})
    uncertainty = {key: value for key, value in base.uncertainty.items() if key not in stated}
    uncertainty |= dict(config.get("uncertainty") or {})
    return Runtime.from_config(values | {"sources": sources, "uncertainty": uncertainty, "label": "ESTIMATED"})
