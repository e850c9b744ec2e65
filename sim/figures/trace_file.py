"""Opening the trace that a figure shows, and what must be sentence about it."""

from pathlib import Path
from typing import Any

from traces.embedded import embedded_names, trace_path
from traces.format.files import read_trace
from traces.format.trace import DECODE, Trace
from traces.statistics.routing import counted_rows
from traces.text import printable, short_name


def is_trace(path: Path) -> bool:
    """Whether a word names a trace file, or an embedded trace."""
    return (path.is_file() and path.suffix == ".safetensors") or (not path.exists() and str(path) in embedded_names())


def open_trace(path: Path) -> Trace:
    """The trace of this file or, where there is none, the embedded one of this name."""
    return read_trace(trace_path(str(path)))


def describe(trace: Trace, path: Path) -> dict[str, Any]:
    """Columns that a table of trace statistics carries: `trace`, and `note` for under the figure."""
    rows = int(counted_rows(trace).sum())
    kind = "decode" if (trace.phase == DECODE).any() else "prefill"
    geometry, source = trace.geometry, str(trace.provenance.get("source", "of unknown origin"))
    sentence = (
        f"MEASURED: routing of {geometry.model}, {rows} {kind} rows of {trace.num_requests} requests, "
        f"{geometry.num_layers} layers, top {geometry.top_k} of {geometry.num_experts} experts; {source}."
    )
    if trace.provenance.get("statement"):
        statement = str(trace.provenance["statement"])
        sentence += f" {statement[:1].upper()}{statement[1:]}."
    return {"trace": short_name(path.stem), "note": printable(sentence)}
