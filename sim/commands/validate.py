"""Show how far the simulator can be trusted: what was measured beside what it predicts.

usage: python -m sim validate [OVERRIDES]

Without published=NAME it runs policies for real on this machine and simulates the same, on settings that did not
calibrate: decisions, bytes, times per layer and token, ranking, each beside the spread of repeated runs. Runs beside
foreign load are dropped and tried again while time is left. Every run is stored as it ends: the same command with the
same out=FOLDER goes on after Ctrl-C, or measures anew where FOLDER is finished.

examples:
  python -m sim validate out=docs/validation/cpu                            real runs on this machine, about 15 minutes
  python -m sim validate real=cuda                                          on its GPU
  python -m sim validate published=corpus                                   published tokens/s of many machines
  python -m sim validate published=mixtral_offloading published.path=FOLDER published tokens/s of several GPUs
  python -m sim validate published=aiconfigurator published.path=WHEEL      kernel times of MoE blocks on many GPUs

overrides (default):
  real=cpu                   or cuda; real.* sizes of the synthetic model; real.link_bytes_per_s=2e9 paces the link
  out=null                   folder of the results; null: outputs/validate/<date>
  repeats=4, tokens=100      undisturbed runs of every setting, decode tokens measured in each
  gate=0.1                   share of foreign load and stolen time, or of waiting for a core, that drops a run
  budget_s=1500              of measuring; what has been measured by then is reported
  measure=true               false: only analyse once more what is in out=FOLDER
  draws=60                   of the bootstrap over calibrating runs, which gives the 90 % intervals
  hardware=null              a machine file of `python -m sim calibrate`, measured with the same sizes (hidden_size,
                             expert_ffn, attention_bytes); null: two settings of the plan calibrate
  other_trace=null           path of a second trace to run settings on
  published=none             mixtral_offloading: Mixtral-8x7B on GPUs, two runs of each calibrate the others
                             big_moe_on_edge: Qwen3-30B-A3B on a phone, one run calibrates the other
                             aiconfigurator: kernels of MoE blocks on many GPUs, from a wheel that is only read
                             measurements: the time model's terms one by one, copies, experts, tokens, kernels
                             corpus: speeds of many machines, each predicted without it, then after one and two of its
                             rows, beside two public formulas
  published.path=null        folder with the published files, of aiconfigurator the wheel; without it the error names
                             them and their origin, and
                             corpus takes the shipped one; of another folder with corpus.csv and machines.csv it
                             predicts every row with what is fitted on the shipped one
  published.seeds=12         over which random eviction is averaged

Results: report.md, validation.json, a CSV per table, figures; of real runs also plan.json, runs.json and
tokens.parquet, from which everything else can be made again.
"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sim.hydra_command import output_folder, run_hydra_command
from sim.terminal import next_commands
from traces.errors import UserError
from traces.numba_cache import announce_compilation

if TYPE_CHECKING:
    from sim.machine.machine import Machine
    from sim.validation.config import LiveConfig
    from sim.validation.findings import Findings

GROUPS = ("published", "real")


def main(argv: list[str]) -> int:
    """Run the command with its overrides -> exit code. Raises: UserError for bad input."""
    # Hydra takes `hardware` and `runtime` for the groups of those names; here they are paths of files, too.
    overrides = [re.sub(r"^runtime=", "software=", re.sub(r"^hardware=", "machine=", word)) for word in argv]
    return run_hydra_command("validate", overrides, validate_from)


def validate_from(config: DictConfig) -> None:
    """Validate what a composed configuration says, write the files and print the tables."""
    from sim.config import to_plain_dict, validate
    from sim.machine.hardware import load_hardware
    from sim.machine.machine import Machine
    from sim.machine.runtime import load_runtime
    from sim.validation.config import LiveConfig, PublishedConfig
    from sim.validation.published import predict
    from sim.validation.report import text, write_findings
    from traces.whole_file import check_folder

    published = validate(PublishedConfig, to_plain_dict(config.get("published"), "published"), "published.")
    knobs = validate(LiveConfig, {name: value for name, value in to_plain_dict(config).items() if name not in GROUPS})
    announce_compilation()
    folder = Path(output_folder() if knobs.out is None else knobs.out).expanduser()
    check_folder(folder)
    config_used = to_plain_dict(config)
    machine = None
    if knobs.machine is not None and knobs.software is not None:
        machine = Machine(load_hardware(knobs.machine), load_runtime(knobs.software))
        config_used |= {"hardware": asdict(machine.hardware), "runtime": asdict(machine.runtime)}
    findings = (
        live(knobs, to_plain_dict(config.get("real"), "real"), folder, machine)
        if published.name is None
        else predict(published)
    )
    write_findings(folder, findings, config_used)
    print(text(findings))
    print(f"results in {folder}")
    if (folder / "validation.csv").is_file():
        print(next_commands(["plot", folder, "figure=validation"]))


def live(knobs: LiveConfig, real: dict[str, Any], folder: Path, machine: Machine | None) -> Findings:
    """Run for real, then compare."""
    from sim.config import validate
    from sim.execution.settings import RealSettings
    from sim.validation.live import analyse
    from sim.validation.measure import measure
    from sim.validation.plan import make_plan
    from sim.validation.raw_runs import gather

    if knobs.measure:
        plan = make_plan(validate(RealSettings, real, "real."), knobs.repeats, knobs.tokens, knobs.other_trace)
        try:
            runs = measure(folder, plan, knobs.gate, knobs.budget_s)
        except KeyboardInterrupt:
            print(f"stopped: finished runs are in {folder}; go on with out={folder}", file=sys.stderr)
            raise
        if not runs:
            raise UserError(f"budget_s={knobs.budget_s:g}: no run finished in that time, give more")
        gather(folder, runs)
    return analyse(folder, knobs.gate, knobs.draws, machine)
