"""Writes the demo model that the package ships: python -m scripts.maintenance.demo_weights

Trains the recipe `demo`, seed 0, unless this machine has done so (some 12 minutes of a core), rounds the weights to
bfloat16 and writes `traces/demo/shipped`. Another Python or torch makes other weights, and every figure that was
measured with them is then of another model: say so in CHANGELOG.md.
"""

from __future__ import annotations

from scripts.command_line import parser_of, run
from traces.demo.cache import demo_model
from traces.demo.shipped import FOLDER, RECIPE, write_shipped


def main(argv: list[str]) -> None:
    """Train, round, write, and say what was written."""
    parser_of(__doc__).parse_args(argv)
    summary = write_shipped(demo_model(RECIPE, train=True))
    print(f"wrote {FOLDER}: final loss {summary['final_loss']:.4f}, sha256 {summary['weights_sha256']}")


if __name__ == "__main__":
    run(main)
