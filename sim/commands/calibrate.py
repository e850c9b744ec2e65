"""Measure this machine into two files that the simulator takes: hardware, and the runtime on it.

usage: python -m sim calibrate [OVERRIDES]

Runs the real runtime (experts between a host tier and a few slots, routing forced by a trace) with mostly hits and
with mostly misses, and single operations in between: copies, experts, experts on the CPU, decisions, each beside the
others where they disturb each other. Samples taken beside too much foreign load are dropped. Takes under 3 minutes.

examples:
  python -m sim calibrate out=mine.yaml
  python -m sim run hardware=mine.yaml runtime=mine_runtime.yaml
  python -m sim calibrate device=cuda link_bytes_per_s=null dtype=bfloat16 hidden_size=2048 expert_ffn=768
  python -m sim calibrate link_bytes_per_s=null               the link as fast as this machine copies memory

overrides (default):
  out=null                   the hardware file, relative to this folder; null: hardware.yaml in the output folder
  runtime_out=null           the runtime file; null: beside the other, its name with _runtime
  device=cpu                 cpu | cuda
  dtype=float32              float32 | bfloat16 | float16
  hidden_size=512            of the experts, with expert_ffn=704: 3 x 512 x 704 weights
  attention_bytes=2097152    a dense matrix per layer in place of attention
  shared_ffn=0, head_bytes=0 shared experts per layer; once per step
  link_bytes_per_s=2e9       pace of the link, EMULATED, on the CPU only; null: as fast as it goes
  link_latency_s=0           of a paced link
  pinned=true                host memory of CUDA copies
  cuda_graphs=false          true: steps replay captured graphs
  distinct_layers=2          layers that have host weights of their own; the others share them
  trace=demo                 or trace.path=FILE: whose routing is forced
  seconds=70                 how long to measure; up to 1.4 times as long on a machine that is not quiet
  portion_s=0.8              how long each run of the runtime goes on at a time
  max_disturbance=0.1        share of all cores that others may have during a sample that counts
  max_wait_share=0.05        of a step's time that its threads may have waited for a core
  hits_fraction=0.75, misses_fraction=0.125   capacities of the two runs
  warm_up_steps=4            executed before anything counts
  seed=0                     of the weights

A paced link is EMULATED and says so; on the CPU "GPU" figures of the file are those of the CPU that plays the device.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sim.config import validate
from sim.hydra_command import output_folder, run_hydra_command
from sim.terminal import next_commands
from traces.errors import UserError

if TYPE_CHECKING:
    from sim.calibrate.measure import CalibrationConfig
    from sim.execution.settings import RealSettings


def main(argv: list[str]) -> int:
    """Run the command with its overrides -> exit code. Raises: UserError for bad input."""
    return run_hydra_command("calibrate", argv, calibrate_from)


def configured(values: dict[str, Any]) -> tuple[RealSettings, CalibrationConfig]:
    """Settings of the runtime and of the calibration from the plain values of the configuration.

    Raises: UserError for a key that nobody reads, a wrong type or a value out of range.
    """
    from sim.calibrate.measure import CalibrationConfig
    from sim.execution.settings import RealSettings

    known = {field.name for field in fields(RealSettings)}
    settings = validate(RealSettings, {key: value for key, value in values.items() if key in known})
    rest = {key: value for key, value in values.items() if key not in known}
    return settings, validate(CalibrationConfig, rest)


def _begins(settings: RealSettings) -> str:
    """What is about to be measured, and how to measure a GPU instead."""
    from sim.calibrate.hardware_file import device_name

    name = device_name(settings.device)
    if settings.device == "cuda":
        return f"measuring the GPU {name} with its host"
    paced = "as fast as memory copies" if settings.link_bytes_per_s is None else "paced, EMULATED"
    gpu = "device=cuda link_bytes_per_s=null dtype=bfloat16"
    return f"measuring the CPU {name}, which plays the device too; the link is {paced}. A GPU: {gpu}"


def calibrate_from(config: DictConfig) -> None:
    """Measure as configured, write the file, print the table."""
    from tqdm import tqdm

    from sim.assembly.build import open_requests
    from sim.config import path_of, to_plain_dict

    values = to_plain_dict(config)
    out, runtime_out = (path_of(name, values.pop(name, None)) for name in ("out", "runtime_out"))
    values.pop("trace", None)
    settings, calibration = configured(values)
    if settings.device == "cuda":
        from sim.execution.cuda import require_cuda

        require_cuda()
    from sim.calibrate.hardware_file import samples_json, table, write_machine
    from sim.calibrate.measure import measure
    from sim.calibrate.parameters import Parameters
    from sim.results.json_files import write_json
    from traces.whole_file import check_place, is_stream

    trace = open_requests(config.trace, int(config.seed))
    folder = output_folder()
    path = out or folder / "hardware.yaml"
    software = runtime_out or path.with_stem(f"{path.stem}_runtime")
    for place in (path, software):
        check_place(place)
        if is_stream(place):
            raise UserError(f"{place}: two files are written and read back, so each must be a file")
    print(_begins(settings), file=sys.stderr)
    with tqdm(total=100, unit="%", desc="measuring", disable=None, leave=False) as bar:
        measured = measure(trace, calibration, settings, lambda share: bar.update(round(100 * share) - bar.n))
    parameters = Parameters(measured)
    write_machine(path, software, parameters)
    write_json(folder / "samples.json", samples_json(measured))
    print(table(parameters))
    print(f"measured {measured.wall_s:.0f} s; samples in {folder / 'samples.json'}")
    print(f"two files: {path}, {software}")
    print(next_commands(["run", f"hardware={path}", f"runtime={software}"]))
