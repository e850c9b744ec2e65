"""Turn a foreign routing record into a trace file.

    python -m sim import FORMAT SOURCE OUT [--option value ...]

Each format is one file in traces/importers; `python -m sim import FORMAT --help` shows its options.
"""

import argparse
from pathlib import Path
from typing import Any

from traces.errors import UserError
from traces.format.files import write_trace
from traces.format.trace import DECODE, Trace
from traces.importers import importer_names, load_importer


def help_text() -> str:
    """What `python -m sim import --help` prints: every format with its first line and an example."""
    importers = {name: load_importer(name) for name in importer_names()}
    formats = [f"  {name:<19} {(importer.__doc__ or '').partition(chr(10))[0]}" for name, importer in importers.items()]
    examples = [f"  python -m sim import {importer.EXAMPLE}" for importer in importers.values()]
    return "\n".join([__doc__ or "", "formats:", *formats, "", "examples:", *examples])


def main(argv: list[str]) -> int:
    """Import SOURCE of FORMAT into OUT and say what was imported; 0 on success.

    Raises: UserError for an unknown format, a malformed source or an OUT that cannot be written.
    """
    options = _parser().parse_args(argv)
    source, out = Path(options.source), Path(options.out)
    if out.is_dir() or (out.exists() and source.exists() and out.samefile(source)):
        raise UserError(f"OUT={out}: must be a new or replaceable file other than SOURCE")
    try:
        trace = write_trace(out, load_importer(options.format).read(source, options))
    except OSError as error:
        raise UserError(f"{source} cannot be imported: {error.strerror or error}") from error
    print(describe(trace, options.format, out))
    return 0


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
        f"Wrote {out} ({out.stat().st_size / 1e6:.1f} MB), content hash {trace.content_hash[:16]}.",
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim import", allow_abbrev=False)
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    for name in importer_names():
        importer = load_importer(name)
        text = importer.__doc__ or ""
        options: dict[str, Any] = {"help": text.partition("\n")[0].replace("%", "%%"), "description": text}
        own = formats.add_parser(
            name, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )
        own.add_argument("source", metavar="SOURCE", help="file or folder to read")
        own.add_argument("out", metavar="OUT", help="trace file to write (*.safetensors)")
        importer.add_options(own)
    return parser
