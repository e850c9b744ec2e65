"""Show how far the simulator can be trusted: what was measured beside what it predicts.

usage: python -m sim validate published=NAME [OVERRIDES]

examples:
  python -m sim validate published=mixtral_offloading                       published tokens/s of several GPUs
  python -m sim validate published=mixtral_offloading published.path=FOLDER the same files from elsewhere

overrides (default):
  published=none             mixtral_offloading: Mixtral-8x7B on GPUs, two runs of each calibrate the others
                             big_moe_on_edge: Qwen3-30B-A3B on a phone, one run calibrates the other
  published.path=null        folder with the published files; null: shared/traces/NAME here or one folder up
  published.seeds=12         over which random eviction is averaged
  published.draws=1000       of the bootstrap that gives the 90 % intervals

Results: report.md, validation.json, a CSV per table and a figure, in the folder that is printed last.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sim.commands.run import remove_unused
from traces.errors import UserError
from traces.numba_cache import nothing_compiled

CONF = Path(__file__).resolve().parents[2] / "conf"


def main(argv: list[str]) -> int:
    """Run the command with its overrides; returns the exit code. Raises: UserError for bad input."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors to the caller instead of printing a traceback
    failures: list[UserError] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="validate")
    def run(config: DictConfig) -> None:
        try:
            validate_from(config)
        except BaseException as error:
            remove_unused(Path(HydraConfig.get().runtime.output_dir))
            if not isinstance(error, UserError) or HydraConfig.get().mode != RunMode.RUN:
                raise
            failures.append(error)  # raised past Hydra, which would print the overrides above the one sentence

    before = sys.argv
    sys.argv = ["python -m sim validate", *argv]
    try:
        run()
    finally:
        sys.argv = before
    if failures:
        raise failures[0]
    return 0


def validate_from(config: DictConfig) -> None:
    """Validate what a composed configuration says, write the files and print the tables."""
    from sim.build import plain
    from sim.config import checked
    from sim.validation.config import PublishedConfig
    from sim.validation.findings import text, write_findings
    from sim.validation.published import predict

    published = checked(PublishedConfig, plain(config.get("published"), "published"), "published.")
    if published.name is None:
        raise UserError("published is not set: name published measurements, for example published=mixtral_offloading")
    if nothing_compiled():
        print("compiling the engine, once, about 20 s ...", file=sys.stderr)
    folder = Path(HydraConfig.get().runtime.output_dir)
    findings = predict(published)
    write_findings(folder, findings, plain(config))
    print(text(findings))
    print(f"results in {folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
