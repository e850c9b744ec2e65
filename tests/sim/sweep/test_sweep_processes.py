"""Sweeps as processes: killed and continued, two in one folder, a failure in the middle, every launcher."""

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from sim.paths import CONF
from sim.results.run_files import finished_runs
from tests.support.random_traces import random_trace
from traces.format.files import write_trace

ROOT = CONF.parent
ENVIRONMENT = os.environ | {"RAY_worker_niceness": "0"}
"""Ray's workers give way to all others unless told not to."""
CAPACITIES = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]


@pytest.fixture(scope="module")
def trace_path(tmp_path_factory) -> Path:
    """Long enough that a run on the SimPy engine takes some tenths of a second."""
    path = tmp_path_factory.mktemp("trace") / "small.safetensors"
    write_trace(path, random_trace(0, num_layers=4, num_experts=8, top_k=2, prompts=(8,) * 4, decodes=(300,) * 4))
    return path


def command(trace_path: Path, folder: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "sim", "run", "-m", f"trace.path={trace_path}", f"hydra.sweep.dir={folder}", *words,
    ]  # fmt: skip


def sweep(trace_path: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(trace_path, folder, *words), cwd=ROOT, env=ENVIRONMENT,
                          capture_output=True, text=True, timeout=600)  # fmt: skip


def computed(printed: str) -> list[str]:
    """Names of the runs that a sweep says it computed."""
    return [line.split()[0] for line in printed.splitlines() if "decode hit rate " in line]


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for run in finished_runs(folder) for path in run.iterdir()}


@pytest.mark.slow
def test_a_killed_sweep_continues_and_repeats_nothing(trace_path, tmp_path):
    words = ("policy=lru,belady", f"+sweep.grid.cache.fraction={CAPACITIES}".replace(" ", ""))
    first = subprocess.Popen(
        command(trace_path, tmp_path, *words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 300
    while len(finished_runs(tmp_path)) < 3 and time.monotonic() < end and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = stamps(tmp_path)
    done = {path.parent.name for path in before}
    assert 3 <= len(done) < 16, "it was to be killed in the middle"
    second = sweep(trace_path, tmp_path, *words)
    assert second.returncode == 0, second.stderr
    assert len(computed(second.stdout)) == 16 - len(done) and not done & set(computed(second.stdout))
    assert before.items() <= stamps(tmp_path).items()
    assert not list(tmp_path.glob(".*.part"))
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == 16
    third = sweep(trace_path, tmp_path, *words)
    assert third.returncode == 0 and computed(third.stdout) == []


@pytest.mark.slow
def test_two_sweeps_share_a_folder(trace_path, tmp_path):
    words = ("policy=lru,belady", f"+sweep.grid.cache.fraction={CAPACITIES}".replace(" ", ""))
    both = [
        subprocess.Popen(
            command(trace_path, tmp_path, *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    printed = [one.communicate(timeout=600) for one in both]
    assert [one.returncode for one in both] == [0, 0], printed
    names = [name for out, _ in printed for name in computed(out)]
    assert len(names) == len(set(names)) == 16  # each was computed once, by one of them
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert len(table) == 16 and table["hit_rate"].notna().all()


@pytest.mark.slow
def test_a_bad_configuration_in_the_middle_stops_nothing(trace_path, tmp_path):
    done = sweep(trace_path, tmp_path, "policy=lru", "cache.fraction=0.25,7,0.5", "engine=compiled")
    assert done.returncode == 2
    assert "cache.fraction=7: must be above 0 and at most 1" in done.stderr and "Traceback" not in done.stderr
    assert sorted(pd.read_parquet(tmp_path / "results.parquet")["capacity"]) == [0.25, 0.5]


def installed(name: str) -> bool:
    return importlib.util.find_spec("hydra_plugins") is not None and (
        importlib.util.find_spec(f"hydra_plugins.{name}") is not None
    )


LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")),
    "submitit_local": ("hydra_submitit_launcher", ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10")),
    "ray": ("hydra_ray_launcher", ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2",
                                   "+hydra.launcher.ray.init.include_dashboard=false")),
}  # fmt: skip
WORKERS = {"joblib": "popen_loky", "submitit_local": "submitit.core._submit", "ray": "ray::_run_job"}
"""What stands in the command line of a process that runs jobs."""


def needs_launcher(launcher: str) -> tuple[str, ...]:
    """Words that choose a launcher; skips where it is not installed."""
    plugin, words = LAUNCHERS[launcher]
    if not installed(plugin):
        pytest.skip(f"{plugin} is not installed: extra `{'ray' if launcher == 'ray' else 'sweep'}`")
    return words


@pytest.mark.slow
@pytest.mark.parametrize("word", ["hydra.launcher.n_jobs=0", "hydra.launcher.batch_size=0"])
def test_a_launcher_that_refuses_its_settings_is_told_in_a_sentence(word, trace_path, tmp_path):
    done = sweep(trace_path, tmp_path, "policy=lru", "seed=1,2", *needs_launcher("joblib"), word)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"{word}: ValueError in the launcher: " in said


def descendants(parent: int) -> list[tuple[int, str]]:
    """(process id, command line) of all processes below a process."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found += [(int(folder.name), words), *descendants(int(folder.name))]
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_workers_of_each_launcher(launcher, trace_path, tmp_path):
    words = needs_launcher(launcher)
    grid = "+sweep.grid.cache.fraction=[0.25,0.5]"
    done = sweep(trace_path, tmp_path, "policy=lru,importance", "engine=compiled", grid, *words)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert sorted(zip(table["policy"], table["capacity"], strict=True)) == [
        (policy, share) for policy in ("importance", "lru") for share in (0.25, 0.5)
    ]
    failing = sweep(trace_path, tmp_path, "policy=lru", "engine=compiled", "cache.fraction=0.75,7", *words)
    assert failing.returncode == 2, failing.stderr
    assert "cache.fraction=7: must be above 0" in failing.stderr
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == 5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the workers are found in /proc")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_worker_loses_nothing_finished(launcher, trace_path, tmp_path):
    """One worker of two is killed in the middle: what is finished stays, the same command ends the rest."""
    words = (*needs_launcher(launcher), "policy=lru,belady", "cache.fraction=0.25,0.5,1.0")
    with (tmp_path / "printed").open("w") as printed:
        first = subprocess.Popen(
            command(trace_path, tmp_path / "out", *words), cwd=ROOT, env=ENVIRONMENT, stdout=printed, stderr=printed
        )
        end, workers = time.monotonic() + 300, []
        while time.monotonic() < end and first.poll() is None and not (workers and finished_runs(tmp_path / "out")):
            workers = [number for number, words in descendants(first.pid) if WORKERS[launcher] in words]
            time.sleep(0.02)
        assert workers, (tmp_path / "printed").read_text()
        os.kill(workers[-1], signal.SIGKILL)
        code = first.wait(timeout=600)
    said = (tmp_path / "printed").read_text()
    assert "Traceback" not in said
    assert code == 0 or "the same command continues it" in said  # Ray repeats the jobs of a dead worker by itself
    before = stamps(tmp_path / "out")
    again = sweep(trace_path, tmp_path / "out", *words)
    assert again.returncode == 0, again.stderr
    assert before.items() <= stamps(tmp_path / "out").items()
    assert len(pd.read_parquet(tmp_path / "out" / "results.parquet")) == 6
    assert not list((tmp_path / "out").glob(".*.part"))


SLURM = {
    "sbatch": """#!/usr/bin/env bash
script=${!#}
for task in $(seq 0 "$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")"); do
  SLURM_JOB_ID=7$task SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 \\
    SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=here bash "$script" > "$script.$task.log" 2>&1 &
done
echo "Submitted batch job 7"
""",
    "srun": """#!/usr/bin/env bash
while [[ $1 == -* ]]; do if [[ $1 == --unbuffered ]]; then shift; else shift 2; fi; done
exec "$@"
""",
    "sacct": "#!/usr/bin/env bash\necho 'JobID|State|NodeList'\n",
}
"""Stand in for Slurm's: start every task of an array on this machine."""


def commands_of(page: str, head: str) -> list[list[str]]:
    """Words of the commands in the block after a bold word of a page."""
    block = page.split(f"**{head}**")[1].split("```bash\n")[1].split("```")[0]
    return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.slow
def test_the_command_for_slurm_on_the_page_runs_an_array_of_jobs(trace_path, tmp_path):
    """Through submitit's own launcher for Slurm; the machine is one, and the scheduler a stand-in."""
    needs_launcher("submitit_local")
    (words,) = commands_of((ROOT / "docs" / "sweeps.md").read_text(), "Slurm")
    assert words[:5] == ["python", "-m", "sim", "run", "-m"]
    place, folder = "hydra.sweep.dir=/shared/outputs/map", tmp_path / "map"
    words[words.index(place)] = f"hydra.sweep.dir={folder}"
    for name, text in SLURM.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = ENVIRONMENT | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    more = [f"trace.path={trace_path}", "engine=compiled"]
    done = subprocess.run([sys.executable, *words[1:], *more], cwd=ROOT, env=variables, capture_output=True, text=True,
                          timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(folder / "results.parquet")
    assert sorted(set(table["policy"])) == ["dali", "importance", "lru"] and len(table) == 9
    assert "#SBATCH --partition=cpu" in next(folder.glob(".submitit/*/*.sh")).read_text()


@pytest.mark.slow
def test_results_of_several_machines_gather_into_one_table(trace_path, tmp_path):
    """Two machines with a folder each, one of whose runs both computed."""
    for name, policies in (("one", "policy=lru,dali"), ("other", "policy=lru,belady")):
        assert sweep(trace_path, tmp_path / name, policies, "engine=compiled").returncode == 0
    all_of_them = tmp_path / "all"
    all_of_them.mkdir()
    for name in ("one", "other"):
        (tmp_path / name).rename(all_of_them / name)
    done = subprocess.run([sys.executable, "-m", "sim", "gather", str(all_of_them)], cwd=ROOT, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(all_of_them / "results.parquet")
    assert sorted(table["policy"]) == ["belady", "dali", "lru", "lru"]
    assert {run.split("/")[0] for run in table["run"][table["policy"] == "lru"]} == {"one", "other"}


@pytest.mark.slow
def test_optuna_finds_a_front(trace_path, tmp_path):
    if not installed("hydra_optuna_sweeper"):
        pytest.skip("hydra_optuna_sweeper is not installed: extra `sweep`")
    path = tmp_path / "t.safetensors"
    write_trace(path, random_trace(1, num_layers=3, num_experts=8, top_k=2, prompts=(4, 4), decodes=(20, 20)))
    done = sweep(path, tmp_path / "out", "+experiment=pareto", "hydra.sweeper.n_trials=6")
    assert done.returncode == 0, done.stderr
    assert "Pareto solutions" in done.stdout
    table = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert 1 <= len(table) <= 6 and table["lost_gate_mass"].notna().all()


@pytest.mark.slow
def test_a_killed_search_of_optuna_continues(trace_path, tmp_path):
    """The same seed asks for the same trials, so that what was finished is kept."""
    if not installed("hydra_optuna_sweeper"):
        pytest.skip("hydra_optuna_sweeper is not installed: extra `sweep`")
    words = ("+experiment=pareto", "hydra.sweeper.n_trials=6")
    with (tmp_path / "printed").open("w") as printed:
        first = subprocess.Popen(
            command(trace_path, tmp_path / "out", *words), cwd=ROOT, stdout=printed, stderr=printed
        )
        end = time.monotonic() + 300
        while time.monotonic() < end and first.poll() is None and len(finished_runs(tmp_path / "out")) < 2:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = stamps(tmp_path / "out")
    assert before, (tmp_path / "printed").read_text()
    again = sweep(trace_path, tmp_path / "out", *words)
    assert again.returncode == 0 and "Pareto solutions" in again.stdout, again.stderr
    assert before.items() <= stamps(tmp_path / "out").items()
    assert len({path.parent for path in stamps(tmp_path / "out")}) <= 6


def test_two_jobs_of_a_sweep_use_one_thread_each(monkeypatch):
    from sim.commands import run

    monkeypatch.setattr(run, "run_hydra_command", lambda *_: 0)
    monkeypatch.setattr(os, "environ", {"MKL_NUM_THREADS": "3"})
    assert run.main(["policy=lru"]) == 0 and os.environ == {"MKL_NUM_THREADS": "3"}
    assert run.main(["-m", "policy=lru"]) == 0
    assert os.environ == {"MKL_NUM_THREADS": "3", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
