"""Whatever the surroundings, and however many start at once: all end well, and with the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.command_line import environment

pytestmark = pytest.mark.slow
SURROUNDINGS = {
    "as it is": {},
    "PYTHONHASHSEED=1": {"PYTHONHASHSEED": "1"},
    "PYTHONHASHSEED=2": {"PYTHONHASHSEED": "2"},
    "one thread": {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    "four threads": {"OMP_NUM_THREADS": "4"},
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "no TERM": {"TERM": None},
    "ASCII": {"LC_ALL": "C", "PYTHONIOENCODING": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cache that cannot be written": {"MOE_SIM_CACHE": "/proc/nowhere", "HOME": "/proc/nowhere"},
}  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sim", "run", "engine=compiled", *words]


def test_the_same_bytes_in_all_surroundings(tmp_path):
    written = {}
    for number, (name, changes) in enumerate(SURROUNDINGS.items()):
        out = tmp_path / str(number)
        argv = command("policy=importance", "trace.requests=4", f"hydra.run.dir={out}")
        done = subprocess.run(argv, capture_output=True, text=True, env=environment(**changes), cwd=tmp_path)
        assert done.returncode == 0 and "Traceback" not in done.stderr, f"{name}: {done.stderr}"
        written[name] = (out / "metrics.json").read_bytes()
    assert {name for name, content in written.items() if content != written["as it is"]} == set()


def test_figures_go_into_files_whatever_a_desktop_has_set(tmp_path):
    argv = [sys.executable, "-m", "sim", "plot", "demo", "figure=routing", f"out={tmp_path}"]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(MPLBACKEND="junk"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def together(*commands: list[str], env: dict[str, str]) -> list[tuple[int, str, str]]:
    """Status, output and errors of processes that start at once."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(argv, env=env, **pipes) for argv in commands]
    ended = [process.communicate() for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, ended, strict=True)]


def test_two_runs_at_once_on_an_empty_cache_into_one_folder(tmp_path):
    env = environment(MOE_SIM_CACHE=str(tmp_path / "cache"))
    argv = command("policy=lru", "trace.requests=2", f"hydra.run.dir={tmp_path / 'out'}")
    for status, _, errors in together(argv, argv, env=env):
        assert status == 0, errors
    ((status, _, errors),) = together([*argv[:-1], f"hydra.run.dir={tmp_path / 'alone'}"], env=env)
    assert status == 0, errors
    assert (tmp_path / "out" / "metrics.json").read_bytes() == (tmp_path / "alone" / "metrics.json").read_bytes()
    assert not list(tmp_path.glob("out*/.*.part"))


TRAIN = """
from scripts.torture.inputs import tiny_recipe
from traces.corpus import Corpus, Document
from traces.demo.cache import demo_model
kinds = ("prose", "code")
documents = tuple(Document(str(i), k, f"{k} {i} some words of a text " * 40) for i in range(9) for k in kinds)
print(demo_model(tiny_recipe(), Corpus(documents, documents)))
"""


def test_two_processes_that_want_one_demo_model_train_it_once(tmp_path):
    env = environment(MOE_SIM_CACHE=str(tmp_path), HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    ended = together(*[[sys.executable, "-c", TRAIN]] * 2, env=env)
    assert [status for status, *_ in ended] == [0, 0], ended
    folders = {out.strip().splitlines()[-1] for _, out, _ in ended}
    assert len(folders) == 1 and (Path(folders.pop()) / "training.json").is_file()
