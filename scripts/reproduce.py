"""Regenerates the figures and the table of the README on the embedded trace (SIMULATED; about a minute on two cores).

python scripts/reproduce.py [folder for the runs]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
POLICIES = "lru,importance,belady,all_resident"
FRACTIONS = "0.125,0.1875,0.25,0.375,0.5,0.75"


def sim(*arguments: str) -> None:
    """Run one command of the tool; its failure is ours."""
    subprocess.run([sys.executable, "-m", "sim", *arguments], cwd=ROOT, check=True)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="moe-offload-sim-"))
    start = time.perf_counter()
    sim("run", "-m", f"policy={POLICIES}", f"cache.fraction={FRACTIONS}", f"hydra.sweep.dir={folder / 'capacity'}")
    sim("run", "-m", f"policy={POLICIES},on_demand", f"hydra.sweep.dir={folder / 'quarter'}")
    sim("run", "-m", "policy/assignment=link_only", f"hydra.sweep.dir={folder / 'quarter_link_only'}")
    sim("plot", str(folder / "capacity"))
    for name in ("quarter", "quarter_link_only"):
        sim("plot", str(folder / name), "figure=attribution")
    FIGURES.mkdir(parents=True, exist_ok=True)
    for figure in ("capacity", "attribution"):
        shutil.copyfile(folder / "capacity" / "figures" / f"{figure}.png", FIGURES / f"{figure}.png")
    print(f"figures in {FIGURES}, runs in {folder}; took {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
