"""Prints what a budget of experts per verifying step costs and gains: python -m scripts.studies.quality.expert_budget

MoE-Spec's rule inside the demo model, a step of 1 + N consecutive positions of held-out text as where all drafts are
accepted, at several budgets. Quality is MEASURED against the untouched model, times are SIMULATED (set-up S1, sizes of
DeepSeek-MoE-16B, 6 layers, a quarter of the experts).

    --drafts N     drafts of a step (default 3)
    --windows N    of 256 tokens (default 24)
    --out FILE     a file for the page, as docs/results/expert_budget.md; without: printed
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import wrap

import torch

from policies.substitution.expert_budget import ExpertBudget
from scripts.command_line import parser_of, run
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup
from sim.engine.decision.counters import COUNTERS
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.machine.runtime import load_runtime
from sim.quality.evaluate import run_study
from sim.quality.metrics import Row, quality_row
from sim.quality.settings import QualityConfig, StudyConfig
from sim.quality.store import Store
from sim.quality.study import DEMO_SIZES, make_study
from traces.demo.cache import demo_model
from traces.demo.recipe import named_recipe
from traces.recording.loading import LoadedModel, load_model

BUDGETS = (None, 20, 16, 12, 10, 8, 6)
"""Experts per layer step; None: all that its tokens want."""


def measured(model: LoadedModel, budget: int | None, drafts: int, windows: int) -> Row:
    """The row of an evaluation, with ``union``: distinct experts that a layer step executes."""
    policy = load_policy("lru")
    if budget is not None:
        policy = replace(load_policy("moe_spec"), substitution=ExpertBudget(budget))
    setup = DeviceSetup(
        policy, Machine(load_hardware("s1_rtx3080ti"), load_runtime("smoe_2026_07")), CacheConfig(reset="request")
    )
    settings = QualityConfig(windows=windows, step_tokens=1 + drafts, contrasts=False, per_layer=False)
    study = make_study(model, setup, StudyConfig.windows_only(settings), default_sizes=DEMO_SIZES)
    results = run_study(study, Store(None))
    executed = [window["counts"][:, COUNTERS.index("executed")].mean() for window in results.windows]
    union = sum(executed) / len(executed) / study.template.trace.num_layers
    return quality_row(study, results) | {"union": union}


def page(rows: list[tuple[int | None, Row]], drafts: int) -> Iterator[str]:
    """The page of results, line by line."""
    first = rows[0][1]
    yield "# What a budget of experts per verifying step costs"
    yield ""
    yield from wrap(
        "`python -m scripts.studies.quality.expert_budget`: MoE-Spec's rule (`policy=moe_spec`) inside the demo model, "
        f"{1 + drafts} consecutive positions of held-out text a step, as where {drafts} drafts are all accepted; "
        f"{first['windows']} windows of {first['tokens_per_window']} tokens. Quality MEASURED against the untouched "
        "model, brackets 95 %, paired bootstrap over documents; times SIMULATED (set-up S1, sizes of DeepSeek-MoE-16B, "
        "6 layers, a quarter of the experts, LRU), without what drafting takes. Rejected drafts, which would have a "
        "say in what a budget keeps, are left out.",
        140,
        break_on_hyphens=False,
    )
    yield ""
    yield "| budget | experts executed | ranks dropped | KL, nats | perplexity | TPOT |"
    yield "|---|---|---|---|---|---|"
    for budget, row in rows:
        change = [100 * (float(row[f"policy.perplexity_ratio{end}"] or 0) - 1) for end in ("", ".low", ".high")]
        cells = (
            "all" if budget is None else str(budget),
            f"{row['union']:.1f}",
            f"{100 * float(row['policy.drop_rate'] or 0):.1f} %",
            f"{float(row['policy.kl'] or 0):.4f}",
            f"{change[0]:+.2f} % [{change[1]:.2f}, {change[2]:.2f}]",
            f"{1e3 * float(row['tpot_s'] or 0):.1f} ms",
        )
        yield f"| {' | '.join(cells)} |"


def main(argv: list[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--drafts", type=int, default=3)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = load_model(str(demo_model(named_recipe("demo"))), "float32")
    rows = [(budget, measured(model, budget, options.drafts, options.windows)) for budget in BUDGETS]
    lines = "\n".join(page(rows, options.drafts)) + "\n"
    if options.out is None:
        print(lines, end="")
    else:
        options.out.write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    run(main)
