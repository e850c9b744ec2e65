"""The commands that are disturbed: their arguments, their inputs, and the files that each leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.torture.inputs import small_trace

PROMPTS = "one\nanother prompt\nthe third of them\n"


@dataclass(frozen=True)
class Job:
    """A command with its arguments for a folder of inputs and one of outputs, and what it leaves when it is done."""

    name: str
    argv: Callable[[Path, Path], list[str]]
    results: tuple[str, ...]
    """Files of the output folder whose bytes must be those of an undisturbed run; `*` for each run of a sweep."""


JOBS = {
    job.name: job
    for job in (
        Job(
            "run",
            lambda work, out: ["run", *replay(work), "policy=importance", "timeline=true", f"hydra.run.dir={out}"],
            ("metrics.json", "steps.parquet", "requests.parquet"),
        ),
        Job(
            "sweep",
            lambda work, out: ["run", "-m", *replay(work), "policy=lru,belady", "seed=0,1", f"hydra.sweep.dir={out}"],
            ("*/metrics.json", "*/steps.parquet", "*/requests.parquet"),
        ),
        Job(
            "train-predictor",
            lambda work, out: [
                "train-predictor", f"trace.path={work / 't.safetensors'}", "train.max_epochs=4", "trace.fit_requests=3",
                "predictor.width=8", "predictor.feed_forward=16", f"out={out / 'p.safetensors'}",
                f"hydra.run.dir={out / 'h'}",
            ],
            ("p.safetensors",),
        ),
        Job(
            "import",
            lambda work, out: [
                "import", "routed_experts", str(work / "a.npy"), str(out / "t.safetensors"), "--num-experts", "8",
            ],
            ("t.safetensors",),
        ),
        Job(
            "record",
            lambda work, out: [
                "record", f"model={work / 'model'}", f"prompts={work / 'p.txt'}", "prompt_tokens=8", "max_new_tokens=6",
                f"out={out / 't.safetensors'}", f"hydra.run.dir={out / 'h'}",
            ],
            ("t.safetensors",),
        ),
        Job("report", lambda work, out: ["report", str(work / "done"), f"out={out / 'r.html'}"], ("r.html",)),
        Job(
            "validate",
            lambda work, out: [
                "validate", "published=mixtral_offloading", f"published.path={work}", "published.seeds=2",
                f"out={out}",
            ],
            ("runs.csv", "report.md"),  # validation.json names the folder
        ),
    )
}  # fmt: skip
IN_PROCESS = ("run", "sweep", "import", "report", "validate")
"""Jobs that may be warmed up here: torch does not like to be forked busy."""


def replay(work: Path) -> list[str]:
    """Overrides that every replay here has."""
    return [f"trace.path={work / 't.safetensors'}", "engine=compiled"]


def prepare(work: Path, names: tuple[str, ...]) -> None:
    """Write the inputs: a trace, an array, prompts, finished runs, published tables, and a small random model."""
    from traces.format.files import write_trace

    write_trace(work / "t.safetensors", small_trace(0, requests=60))
    np.save(work / "a.npy", np.argsort(np.random.default_rng(0).random((5000, 3, 8)), -1)[..., :2].astype(np.int32))
    (work / "p.txt").write_text(PROMPTS)
    if "record" in names:
        from tests.support.tiny_models import build, save_model

        save_model(build("olmoe"), work / "model")
    if "report" in names:
        run_here(["run", "-m", *replay(work), "policy=lru,belady", f"hydra.sweep.dir={work / 'done'}"])
    if "validate" in names:
        published_tables(work)


def published_tables(folder: Path) -> None:
    """A made trace and made runs of one GPU in the form of mixtral-offloading."""
    rng = np.random.default_rng(1)
    lines = ["0,1,2,3,4,5,6,7"] * 32
    lines += [",".join(map(str, sorted(rng.choice(8, 2, replace=False).tolist()))) for _ in range(60 * 32)]
    (folder / "active_experts.txt").write_text("\n".join(lines) + "\n")
    head = "gpu,offload_per_layer,strategy,max_new_tokens,total_s,tokens,tok_per_s,mean_hit_rate,layer_hit_rates"
    runs = (("lru", 4, 950.0), ("random", 6, 1300.0), ("lfu", 5, 1150.0))
    rows = [
        f"made,{off},{rule},256,{total_s},2800,{2800 / total_s},0.5,{' '.join(['0.5'] * 32)}"
        for rule, off, total_s in runs
    ]
    (folder / "measured.csv").write_text("\n".join([head, *rows]) + "\n")


def run_here(argv: list[str]) -> int:
    """Run a command in this process -> exit status."""
    from hydra.core.global_hydra import GlobalHydra

    from sim.__main__ import main

    GlobalHydra.instance().clear()
    try:
        return main(argv)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
