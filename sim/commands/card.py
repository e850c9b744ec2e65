"""Write what a trace's routing is like as a small card, from which `trace=synthetic` draws traces of any length.

    python -m sim card TRACE [OUT.yaml]
    python -m sim card CURVES.csv [OUT.yaml] --model NAME

TRACE is a trace file, or the name of an embedded trace such as `demo`. The card holds, MEASURED: popularity, reuse
distances, distinct experts of neighbouring tokens, what a layer says of the next, drift, lengths, and the slope of the
gate where there are scores; and FITTED the generator that draws the same. CURVES is a table of published curves, the
hit rate of each layer's LRU cache over its capacity, a row per capacity: its card holds the curve, PUBLISHED, and a
generator that has it.
Without OUT the card is printed. It holds no text and no token of the trace.

examples:
  python -m sim card demo
  python -m sim card my.safetensors my_card.yaml
  python -m sim run trace=synthetic card=my_card.yaml trace.requests=8 trace.tokens=256 policy=lru
"""

import argparse
from pathlib import Path

from sim.command_words import written_file
from sim.terminal import next_commands
from traces.embedded import trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.numba_cache import announce_compilation
from traces.whole_file import STANDARD_OUTPUT, check_place, printing_beside

TABLE = ".csv"


def main(argv: list[str]) -> int:
    """Make one card, write or print it, and say what it holds; 0 on success.

    Raises: UserError for a source that is no trace and no table of curves, or an OUT that cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m sim card", allow_abbrev=False)
    parser.add_argument("source", metavar="TRACE")
    parser.add_argument("out", metavar="OUT", nargs="?", type=written_file, default=STANDARD_OUTPUT)
    parser.add_argument("--model", metavar="NAME")
    options = parser.parse_args(argv)
    source, out = Path(options.source), Path(options.out)
    is_table = source.suffix == TABLE
    if is_table and options.model is None:
        raise UserError(f"{source} is a table of curves: say --model NAME")
    if not is_table and options.model is not None:
        raise UserError(f"--model={options.model}: only of a table of curves (*.csv); a trace names its model")
    check_place(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"OUT={out}: must be a new or replaceable file other than TRACE")
    from sim.cards.card import write_card
    from sim.cards.make import card_of_trace, read_curve

    with printing_beside(out):
        announce_compilation()
        card = read_curve(source, options.model) if is_table else card_of_trace(read_trace(trace_path(options.source)))
        write_card(out, card)
        shape = card.geometry
        print(
            f"{card.label} card of {card.model}, {shape.num_layers} MoE layers, top {shape.top_k} of "
            f"{shape.num_experts} experts{'' if out == Path(STANDARD_OUTPUT) else f', in {out}'}; generator FITTED."
        )
        if out.is_file():
            drawn = ("trace=synthetic", f"card={out}", "trace.requests=8", "trace.tokens=256")
            print(next_commands(["run", *drawn, "policy=lru"]))
    return 0
