"""Writes a calibration as files of hardware and runtime, prints it as a table."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sim.calibrate.measure import Measured
from sim.calibrate.parameters import Parameter, Parameters
from sim.calibrate.samples import Sample
from sim.machine.figures import Figures, parameters_of
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime
from traces.whole_file import write_whole

COLUMNS = ("figure", "value", "spread", "error", "n", "dropped", "label")


def processor() -> str:
    """The system's name of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Name of the measured device."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    return processor()


def sources(parameters: Parameters, when: str) -> dict[str, str]:
    """Where each parameter comes from, in one sentence."""
    what = device_name(parameters.settings.device)
    sentences = {}
    for parameter in parameters.by_name.values():
        if not parameter.in_file:
            continue
        sentence = f"{parameter.label}: {parameter.how}"
        if parameter.count:
            sentence += f"; by calibrate on {when} on {what}"
            sentence += f"; n={parameter.count}, {parameter.dropped} dropped for foreign load"
            sentence += "" if parameter.quiet else ", NOT QUIET: the rest is the least disturbed"
        sentences[parameter.name] = sentence
    return sentences


def machine_of(parameters: Parameters, name: str) -> Machine:
    """The calibrated hardware and runtime."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    return parameters.machine(name, sources(parameters, when))


def as_yaml(file: Figures, comment: str) -> str:
    """The file's text, in the order of the schema; what was not measured and means nothing is left out."""
    lines = [f"# {line}" for line in comment.splitlines()] + [f"name: {json.dumps(file.name)}"]
    for name in parameters_of(type(file)):
        value = getattr(file, name)
        if value is not None and name in file.sources:
            lines.append(f"{name}: {value if isinstance(value, int) else f'{value:.6g}'}")
    lines.append(f"label: {file.label}")
    for table in ("sources", "uncertainty"):
        entries = getattr(file, table)
        lines += [f"{table}:" if entries else f"{table}: {{}}"]
        lines += [f"  {name}: {json.dumps(value)}" for name, value in entries.items()]
    return "\n".join(lines) + "\n"


def write_machine(path: Path, runtime_path: Path, parameters: Parameters) -> Machine:
    """Write both files -> the machine as it is read back from them."""
    settings, measured = parameters.settings, parameters.measured
    link = f"link paced to {settings.link_bytes_per_s:g} bytes/s: EMULATED" if settings.paced else "link not paced"
    comment = (
        f"Measured by python -m sim calibrate in {measured.wall_s:.0f} s: device={settings.device}, {settings.dtype}, "
        f"experts of {settings.expert_bytes} bytes\n(hidden size {settings.hidden_size}, width {settings.expert_ffn}), "
        f"attention of {settings.attention_bytes} bytes per layer; {link}.\n"
    )
    machine = machine_of(parameters, path.stem)
    texts = {
        path: as_yaml(machine.hardware, comment + "Uncertainty: relative standard errors."),
        runtime_path: as_yaml(
            machine.runtime,
            comment + "Costs of the runtime are for these sizes; uncertainty: relative standard errors.",
        ),
    }
    for file, text in texts.items():
        write_whole(file, text.encode())
    return Machine(Hardware.read(path), Runtime.read(runtime_path))


def samples_json(measured: Measured) -> list[dict[str, Any]]:
    """All samples with the load of the machine, for a file."""
    return [sample_json(sample) for sample in measured.samples]


def sample_json(sample: Sample) -> dict[str, Any]:
    load = sample.load
    return {
        "kind": sample.kind,
        "round": sample.round,
        **sample.values,
        "foreign_share": None if load is None else load.foreign_share,
        "steal_share": None if load is None else load.steal_share,
    }


def table(parameters: Parameters) -> str:
    """The parameters as a table a person can read."""
    rows = [COLUMNS, *(row(parameter) for parameter in parameters.by_name.values() if parameter.count)]
    widths = [max(len(line[i]) for line in rows) for i in range(len(COLUMNS))]
    aligned = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join([*aligned, *notes(parameters)])


def row(parameter: Parameter) -> tuple[str, ...]:
    percent = [f"{100 * share:.1f} %" if np.isfinite(share) else "-" for share in (parameter.std, parameter.error)]
    counts = (str(parameter.count), str(parameter.dropped))
    return (
        parameter.name,
        f"{parameter.value:.4g}",
        *percent,
        *counts,
        parameter.label + ("" if parameter.quiet else ", NOT QUIET"),
    )


def notes(parameters: Parameters) -> list[str]:
    """Notes below the table: what spread and error mean, residuals, foreign load, dropped samples."""
    samples = parameters.measured.samples
    shares = [
        sample.disturbance for sample in samples if sample.load is not None and sample.load.disturbance is not None
    ]
    config, portions = parameters.measured.config, parameters.measured.portions
    residuals = parameters.residuals
    limit, waited = config.max_disturbance, sum(portion.waited for portion in portions)
    left_out = sum(portion.executed - portion.steps.size for portion in portions)
    lines = [
        "spread: of single samples; error: standard error of the mean, drift between rounds included",
        f"the simulator misses the calibrating runs' steps by {100 * np.sqrt(np.mean(residuals**2)):.1f} % (root mean "
        f"square over {residuals.size} portions of {', '.join(parameters.measured.replays)})",
    ]
    if not shares:
        return [*lines, "this system does not say what other processes do: nothing was dropped, nothing could be"]
    lines.append(
        f"others had {100 * float(np.median(shares)):.0f} % of the cores (median; up to {100 * max(shares):.0f} %); "
        f"samples above {100 * limit:.0f} % were dropped"
    )
    lines.append(
        f"{waited} of {sum(portion.executed for portion in portions)} steps of the runtime waited for a core for more "
        f"than {100 * config.max_wait_share:.0f} % of their time; {left_out} of them were left out"
    )
    if any(not parameter.quiet for parameter in parameters.by_name.values()):
        lines.append(
            "WARNING: NOT QUIET: too few samples were taken in quiet; these figures rest on the least disturbed ones. "
            "Calibrate again when nothing else runs"
        )
    return lines
