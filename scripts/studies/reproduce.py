"""Regenerates figures and tables of the README and prints how long each took: python -m scripts.studies.reproduce

Not those of these commands, which train models or need a quiet machine: scripts.studies.quality.pareto, .alpha,
.open_loop and .notions, scripts.benchmarks.sweep and `python -m sim validate`.

python -m scripts.studies.reproduce [--runs FOLDER] [--only PART ...] [--traces FOLDER]

Parts, in this order; all results SIMULATED on the embedded trace unless said otherwise, times on two cores:

  figures    docs/figures/capacity.png and attribution.png (about a minute)
  results    the table of README "What comes out"
  map        docs/figures/where_it_pays.png and docs/results/where_it_pays.csv (two minutes)
  ablation   SMoE's parts and baselines, published beside ours (three minutes); docs/results/smoe_claims.md
  od_moe     OD-MoE's tables, published beside ours (two minutes)
  streaming  Expert Streaming's statements beside ours (four minutes)
  speed      docs/engines.md, MEASURED; of gpt-oss-20b with --traces, else of a drawn trace of its shape
  published  hit rates that others published or measured; left out without --traces, and the summary says so

--traces: a folder with gpt_oss_20b/, big_moe_on_edge/ and mixtral_offloading/. Exit status 1 if a part failed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.command_line import parser_of
from scripts.command_line import run as script_main
from sim.paths import ROOT
from sim.results.table import collect

FIGURES = ROOT / "docs" / "figures"
POLICIES = "lru,importance,belady,all_resident"
LOSSLESS = "hybrimoe_paper,dali"
"""The best lossless policies of the embedded trace at its usual machine, see scripts.studies.smoe.rivals."""
VARIANTS = {
    "lru, CPU": ("policy=lru", "policy/assignment=two_pointer"),
    "importance, link only": ("policy=importance", "policy/assignment=link_only"),
}
FRACTIONS = "0.125,0.1875,0.25,0.375,0.5,0.75"


@dataclass(frozen=True)
class Places:
    """Where runs go, and where traces of other people lie."""

    runs: Path
    traces: Path | None


def sim(*arguments: str) -> None:
    """Run one command of the tool; its failure is ours."""
    subprocess.run([sys.executable, "-m", "sim", *arguments], cwd=ROOT, check=True)


def script(name: str, *arguments: str) -> None:
    """Run one script; its failure is ours."""
    subprocess.run([sys.executable, "-m", f"scripts.{name}", *arguments], cwd=ROOT, check=True)


def figures(places: Places) -> None:
    """The figures of the README."""
    folder = places.runs / "capacity"
    grid = (f"policy={POLICIES},hybrimoe_paper", f"cache.fraction={FRACTIONS}")
    sim("run", "-m", *grid, "engine=compiled", f"hydra.sweep.dir={folder}")
    sim("plot", str(folder), "figure=capacity,attribution")
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name in ("capacity", "attribution"):
        shutil.copyfile(folder / "figures" / f"{name}.png", FIGURES / f"{name}.png")


def folder_of(note: str) -> str:
    """A folder for a variant, without what Hydra reads as more than a name."""
    return note.replace(", ", "_").replace(" ", "_")


def results(places: Places) -> None:
    """The table of what comes out: a row per policy at a quarter of the experts."""
    folder = places.runs / "quarter"
    sim("run", "-m", f"policy={POLICIES},{LOSSLESS},on_demand", "engine=compiled", f"hydra.sweep.dir={folder}")
    for note, words in VARIANTS.items():
        sim("run", "-m", *words, "engine=compiled", f"hydra.sweep.dir={places.runs / folder_of(note)}")
    head = f"{'policy':<22}{'hit rate':>10}{'cache ratio':>13}{'TPOT ms':>10}{'link ms':>10}{'lost':>10}"
    print(f"{head}   decode steps, SIMULATED")
    for note in ("", *VARIANTS):
        runs = places.runs / folder_of(note) if note else folder
        for _, run in collect(runs).sort_values("tpot_s.mean", ascending=False).iterrows():
            rates = f"{run['decode.hit_rate']:>10.3f}{run['decode.cache_ratio']:>13.3f}"
            times = f"{1e3 * run['tpot_s.mean']:>10.1f}{1e3 * run['time_s_per_token.link']:>10.1f}"
            print(f"{note or run['policy']:<22}{rates}{times}{run['decode.lost_gate_mass']:>10.3f}")


def ablation(places: Places) -> None:
    """SMoE taken apart; its table of claims goes where the README points."""
    folder = places.runs / "ablation"
    script("studies.smoe.ablation", "--out", str(folder))
    shutil.copyfile(folder / "smoe_claims.md", ROOT / "docs" / "results" / "smoe_claims.md")


def speed(places: Places) -> None:
    """Nanoseconds per layer step of every engine; on a drawn trace of the same shape without --traces."""
    script("benchmarks.engines", *(["--data", str(places.traces / "gpt_oss_20b")] if places.traces else []))


def published(places: Places) -> None:
    """Hit rates that others published."""
    if places.traces is None:
        raise LookupError("left out: it needs --traces FOLDER")
    script("studies.published_hit_rates", str(places.traces))


PARTS: dict[str, Callable[[Places], None]] = {
    "figures": figures,
    "results": results,
    "map": lambda places: script("studies.smoe.where_it_pays"),
    "ablation": ablation,
    "od_moe": lambda places: script("studies.systems.od_moe"),
    "streaming": lambda places: script("studies.systems.expert_streaming", str(places.runs / "expert_streaming")),
    "speed": speed,
    "published": published,
}


def run_part(name: str, places: Places) -> str:
    """Run one part -> what became of it."""
    print(f"\n=== {name} ===", flush=True)
    start = time.perf_counter()
    try:
        PARTS[name](places)
    except LookupError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return f"FAILED with status {error.returncode} after {time.perf_counter() - start:.0f} s"
    return f"{time.perf_counter() - start:.0f} s"


def main(argv: list[str]) -> int:
    """Run the parts asked for, print how long each took -> 1 if one failed."""
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=Path, help="folder for the runs (default: a new temporary one)")
    parser.add_argument("--traces", type=Path, help="folder with the traces of other people")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="only these parts")
    options = parser.parse_args(argv)
    runs = options.runs or Path(tempfile.mkdtemp(prefix="moe-offload-sim-"))
    places = Places(runs.resolve(), options.traces.resolve() if options.traces else None)
    start = time.perf_counter()
    outcomes = {name: run_part(name, places) for name in options.only or PARTS}
    print(f"\nfigures in {FIGURES}, runs in {places.runs}")
    for name, outcome in outcomes.items():
        print(f"  {name:<10} {outcome}")
    print(f"  {'together':<10} {time.perf_counter() - start:.0f} s")
    return int(any(outcome.startswith("FAILED") for outcome in outcomes.values()))


if __name__ == "__main__":
    script_main(main)
