"""Write a trace as a table, or what a run would keep on the device as files of other runtimes.

    python -m sim export TRACE OUT [--layout long|wide]
    python -m sim export RUN OUT --as frequency|hot_set|ktransformers|llama_cpp [--first-layer N]

Of a trace OUT (*.csv, *.tsv, *.jsonl, *.parquet) is a table of who used which expert; `python -m sim import table`
reads it back. Of the folder of a run OUT is one of
  frequency      CSV: how many steps demanded each expert of each layer, and whether it stays
  hot_set        JSON: the experts of each layer that stay
  ktransformers  JSON: counts [L, E] for SGLang's --init-expert-location, and the experts on the GPU
  llama_cpp      the argument -ot or --n-cpu-moe, which places whole layers
A static policy's placement is that of the run; of others it is the most demanded experts that fit the run's capacity.
How often the written placement would have hit is computed from the file, and printed beside the run's own hit rate.
None of these files was tried with the programs that they are for.

examples:
  python -m sim export my.safetensors routing.csv
  python -m sim export demo routing.parquet --layout wide
  python -m sim export outputs/run/2026-01-01_12-00-00 experts.csv --as frequency
  python -m sim export outputs/run/2026-01-01_12-00-00 llama.args --as llama_cpp --first-layer 1
"""

import argparse
from pathlib import Path

from sim.command_words import written_file
from sim.results.json_files import read_json
from sim.results.placements import WRITERS, read_back, read_placement
from sim.terminal import next_commands
from traces.embedded import trace_path
from traces.errors import UserError
from traces.exporters.table import LONG, WIDE, left_out, write_routing
from traces.format.files import read_trace
from traces.whole_file import check_place, is_stream, printing_beside, write_whole

LAST_LAYER = 65535


def main(argv: list[str]) -> int:
    """Export and say what; 0 on success.

    Raises: UserError for a source that is neither a trace nor a run, or an OUT that cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m sim export", allow_abbrev=False)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("out", metavar="OUT", type=written_file)
    parser.add_argument("--layout", choices=(LONG, WIDE))
    parser.add_argument("--as", dest="kind", choices=sorted(WRITERS))
    parser.add_argument("--first-layer", type=int, metavar="N")
    options = parser.parse_args(argv)
    source, out = Path(options.source), Path(options.out)
    is_run = source.is_dir()
    if is_run and (options.kind is None or options.layout is not None):
        raise UserError(
            f"{source} is the folder of a run: say --as {', '.join(sorted(WRITERS))}; --layout is of traces"
        )
    if not is_run and (options.kind is not None or options.first_layer is not None):
        raise UserError(f"--as and --first-layer are of runs: {source} must be the folder of one")
    check_place(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"OUT={out}: must be a new or replaceable file other than SOURCE")
    with printing_beside(out):
        print("\n".join(_export_run(source, out, options) if is_run else _export_trace(options, out)))
    return 0


def _export_trace(options: argparse.Namespace, out: Path) -> list[str]:
    trace = read_trace(trace_path(options.source))
    rows = write_routing(out, trace, options.layout)
    lines = [f"Wrote {out}, {rows} rows of {trace.num_requests} requests of {trace.geometry.model}."]
    if absent := left_out(trace):
        lines.append(f"Left out, since a table has no room for it: {', '.join(absent)}.")
    if is_stream(out):
        return lines
    return [*lines, next_commands(["import", "table", out, "again.safetensors"])]


def _export_run(run: Path, out: Path, options: argparse.Namespace) -> list[str]:
    if options.first_layer is not None and not 0 <= options.first_layer <= LAST_LAYER:
        raise UserError(f"--first-layer={options.first_layer}: must be from 0 to {LAST_LAYER}")
    if is_stream(out):
        raise UserError(f"OUT={out}: must be a file, which is read back")
    placement = read_placement(run, options.first_layer)
    write_whole(out, WRITERS[options.kind](placement).encode())
    rate = read_json(run / "metrics.json").get("hit_rate")
    kept, whose = (
        int(placement.resident.sum()),
        "as the run kept them" if placement.of_run else "the most demanded that fit",
    )
    lines = [f"Wrote {out}: {kept} of {placement.resident.size} experts stay, {whose}."]
    for name, mask in read_back(out, options.kind, placement.numbers, placement.resident.shape[1]).items():
        lines.append(f"SIMULATED hit rate of {name}: {placement.hit_rate(mask):.4f}; of the run: {rate:.4f}.")
    return [*lines, next_commands(["report", run])]
