"""Writes the predictors of the package, trained anew: python -m scripts.maintenance.embedded_predictors [--show]

--show prints how often those that are there are right, and trains nothing.
They learn from the last quarter of the embedded trace: the requests that every policy with a learned part holds out.
The same seed gives the same bytes on the same machine with the same versions; elsewhere the last bits of sums differ,
and with them the weights, perhaps the epoch that is kept.
"""

from __future__ import annotations

from pathlib import Path

from scripts.command_line import parser_of, run
from sim.commands import train_predictor
from sim.predictors.checkpoint import DATA, read_checkpoint
from sim.predictors.settings import KINDS

FIT_REQUESTS = 6


def main(argv: list[str]) -> None:
    """Write the predictors of both kinds, or print their records."""
    parser = parser_of(__doc__)
    parser.add_argument("--show", action="store_true", help="print how often those that are there are right")
    parser.add_argument("--folder", type=Path, default=DATA)
    given = parser.parse_args(argv)
    for kind in KINDS:
        out = given.folder / f"{kind}.safetensors"
        if given.show:
            print(train_predictor.report(read_checkpoint(out), out) + "\n")
        else:
            words = [f"predictor={kind}", f"trace.fit_requests={FIT_REQUESTS}", "train.float16=true", f"out='{out}'"]
            train_predictor.main(words)


if __name__ == "__main__":
    run(main)
