"""Probes this machine in under a minute into a hardware file: RAM, experts on the CPU, storage, GPU and link.

What `python -m sim calibrate` measures in minutes of real runs, this takes from single operations, and it measures the
whole machine, GPU and host at once. Figures are MEASURED where something was timed here, PUBLISHED where only the
name of a part is known; each says when, and how quiet the machine was."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sim.calibrate.hardware_file import as_yaml, processor
from sim.forecast.probe_found import Found
from sim.forecast.probe_gpu import known_gpu, no_gpu, probe_cuda
from sim.forecast.probe_host import probe_host, probe_storage
from sim.machine.hardware import Hardware
from traces.whole_file import write_whole


def probe(path: Path) -> Hardware:
    """Measure this machine and write its hardware file. Raises: UserError where it cannot be written."""
    when, found = datetime.now(UTC).strftime("%Y-%m-%d"), Found()
    cpu = processor()
    probe_host(found, when, cpu)
    probe_storage(found, when, path.absolute().parent)
    if not (probe_cuda(found, when) or known_gpu(found)):
        no_gpu(found, when)
    labels = [source.split(":")[0] for source in found.sources.values()]
    label = max(labels, key=("MEASURED", "PUBLISHED", "EMULATED", "FITTED", "ESTIMATED").index)
    figures = {name: value for name, value in found.figures.items() if name in Hardware.__dataclass_fields__}
    hardware = Hardware(
        name=path.stem,
        label=label,
        sources={name: found.sources[name] for name in figures},
        uncertainty={name: error for name, error in found.uncertainty.items() if name in figures},
        **figures,
    )
    said = "\n".join((f"Probed by python -m sim forecast hardware=here on {when}: {cpu}.", *found.remarks))
    text = as_yaml(hardware, said)
    if hardware.storage_rates:
        rows = "".join(f"  - [{', '.join(f'{value:.6g}' for value in row)}]\n" for row in hardware.storage_rates)
        text = text.replace("\nlabel: ", f"\nstorage_rates:\n{rows}label: ", 1)
    write_whole(path, text.encode())
    return Hardware.read(path)
