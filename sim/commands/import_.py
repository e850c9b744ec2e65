"""Turn a foreign routing record into a trace file.

    python -m sim import FORMAT SOURCE OUT [--option value ...]

Each format is one file in traces/importers; `python -m sim import FORMAT --help` shows its options.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from sim.command_words import written_file
from sim.config import suggest
from sim.docstrings import docstring
from sim.terminal import next_commands
from traces.errors import UserError
from traces.format.files import write_trace
from traces.format.trace import DECODE, Trace
from traces.importers import importer_names, load_importer
from traces.whole_file import check_place, printing_beside


def help_text() -> str:
    """What `python -m sim import --help` prints: every format with its first line and an example."""
    importers = {name: load_importer(name) for name in importer_names()}
    formats = [f"  {name:<19} {docstring(importer).partition(chr(10))[0]}" for name, importer in importers.items()]
    examples = [f"  python -m sim import {importer.EXAMPLE}" for importer in importers.values()]
    return "\n".join([docstring(sys.modules[__name__]), "formats:", *formats, "", "examples:", *examples])


def main(argv: list[str]) -> int:
    """Import SOURCE of FORMAT into OUT and say what was imported; 0 on success.

    Raises: UserError for an unknown format, a malformed source or an OUT that cannot be written.
    """
    if argv and not argv[0].startswith("-") and argv[0] not in importer_names():
        raise UserError(f"{argv[0]} is not a format: {suggest(argv[0], importer_names())}")
    options = _parser().parse_args(argv)
    source, out = Path(options.source), Path(options.out)
    check_place(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"OUT={out}: must be a new or replaceable file other than SOURCE")
    with printing_beside(out):
        import_trace(source, out, options)
    return 0


def import_trace(source: Path, out: Path, options: argparse.Namespace) -> None:
    """Import, and say what. Raises: UserError for a malformed source or an OUT that cannot be written."""
    try:
        trace = write_trace(out, load_importer(options.format).read(source, options))
    except OSError as error:
        raise UserError(f"{source} cannot be imported: {error.strerror or error}") from error
    print(describe(trace, options.format, out))
    if out.is_file():
        sweep = ["run", "-m", f"trace.path={out}", "policy=lru,belady", "cache.fraction=0.125,0.25,0.5"]
        print(next_commands(["info", out], sweep))


def describe(trace: Trace, name: str, out: Path) -> str:
    """What was imported, in a few lines."""
    decode = int((trace.phase == DECODE).sum())
    geometry = trace.geometry
    held = ["ids", *(["weights"] if trace.topk_weights is not None else [])]
    lines = [
        f"Imported {name}: {geometry.model}, {geometry.num_layers} MoE layers, top-{geometry.top_k} of "
        f"{geometry.num_experts} experts.",
        f"{trace.num_requests} requests, {trace.num_tokens - decode} prefill and {decode} decode rows, with "
        f"{' and '.join(held)}{'' if trace.ranked else ' (ids not best first)'}.",
        *trace.provenance.get("notes", ()),
        *missing(trace),
        f"Wrote {out}{_size(out)}, content hash {trace.content_hash[:16]}.",
    ]
    return "\n".join(lines)


def missing(trace: Trace) -> list[str]:
    """What the trace has not, and which of the shipped policies refuse it for that; empty where nothing is missing."""
    from policies.needs import Need, lacking
    from sim.assembly.catalogue import load_policy, system_names  # only now: --help is there at once

    parts = {
        "weights": trace.topk_weights,
        "scores of all experts": trace.router_logits,
        "lookahead of the next gate": trace.lookahead_before or trace.lookahead_after,
        "token ids": trace.token_ids,
        "bytes per expert (a run takes those of model=NAME)": trace.geometry.expert_bytes,
    }
    absent = [name for name, part in parts.items() if part is None]
    lines = [f"Missing: {', '.join(absent)}."] if absent else []
    refused: dict[str, list[str]] = {}
    for name in system_names():
        for need in load_policy(name).needs():
            lacks = lacking(need, trace)
            if need is Need.FIT and trace.num_requests == 1:
                lacks = "requests to learn from that are not replayed, and there is one request"
            if lacks is not None:
                refused.setdefault(lacks, []).append(name)
                break
    return lines + [f"Refused by {', '.join(names)}: needs {lacks}." for lacks, names in refused.items()]


def _size(out: Path) -> str:
    """How large a file became; nothing is known of a stream."""
    return f" ({out.stat().st_size / 1e6:.1f} MB)" if out.is_file() else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim import", allow_abbrev=False)
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    for name in importer_names():
        importer = load_importer(name)
        text = docstring(importer)
        options: dict[str, Any] = {"help": text.partition("\n")[0].replace("%", "%%"), "description": text}
        own = formats.add_parser(
            name, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )
        own.add_argument("source", metavar="SOURCE", help="file or folder to read")
        own.add_argument("out", metavar="OUT", type=written_file, help="trace file to write (*.safetensors)")
        importer.add_options(own)
    return parser
