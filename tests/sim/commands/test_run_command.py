"""`python -m sim run` as a process: files, exit codes, sentences, sweeps."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sim.paths import CONF
from tests.support.random_traces import random_trace
from traces.format.files import write_trace
from traces.numba_cache import OURS, nothing_compiled

ROOT = CONF.parent


def sim(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sim", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def trace_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "small.safetensors"
    write_trace(path, random_trace(0, num_layers=2, num_experts=8, top_k=2))
    return path


def test_run_writes_its_files_and_the_same_bytes_again(trace_path, tmp_path):
    contents = []
    for name in ("a", "b"):
        done = sim("run", "policy=importance", f"trace.path={trace_path}", f"hydra.run.dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        assert "TPOT" in done.stdout and "SIMULATED" in done.stdout
        contents.append(
            [(tmp_path / name / file).read_bytes() for file in ("metrics.json", "steps.parquet", "requests.parquet")]
        )
    assert contents[0] == contents[1]
    metrics = json.loads(contents[0][0])
    for key in ("hit_rate", "cache_ratio", "substitution_rate", "bytes_per_token", "loads_per_token", "lost_gate_mass"):
        assert isinstance(metrics[key], float), key
    for key in ("tpot_s.p99", "ttft_s.mean", "stall_s_per_token.link", "prefill.hit_rate", "decode.hit_rate"):
        assert isinstance(metrics[key], float), key
    provenance = json.loads((tmp_path / "a" / "provenance.json").read_text())
    assert provenance["label"] == "SIMULATED" and provenance["engine"] == "simpy"
    assert provenance["replay_wall_s"] > 0 and provenance["layer_steps"] > 0
    assert provenance["trace_hash"]


@pytest.mark.slow
def test_a_sweep_gives_one_folder_per_run(trace_path, tmp_path):
    done = sim(
        "run", "-m", "policy=lru,belady", "cache.fraction=0.25,0.5", f"trace.path={trace_path}",
        f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("*_*/metrics.json")]
    assert sorted((row["policy"], row["capacity_fraction"]) for row in rows) == [
        ("belady", 0.25), ("belady", 0.5), ("lru", 0.25), ("lru", 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "cache.slots_per_layer=0"), "at least 1 slot is needed"),
        (("run", "~cache"), "cache is missing"),
        (("run", "what_if=true", "policy=lru", "cache.overflow=hold"), "what_if=true: this replay has no clock"),
        (("rum",), "did you mean run?"),
        (("run", "lru"), "lru: an override is KEY=VALUE, did you mean policy=lru or policy/eviction=lru?"),
        (("run", "nothing"), "nothing: an override is KEY=VALUE, as policy=lru"),
        (("run", "quiet=perhaps"), "quiet=perhaps: must be true or false"),
        (("run", "format=xml"), "format=xml: must be table or json"),
        (("run", "cache.bytes=2.5e0"), "cache.bytes=2.5: must be a whole number or a word or null"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, tmp_path):
    done = sim(*arguments, *([f"hydra.run.dir={tmp_path / 'out'}"] if arguments[0] == "run" else []))
    assert done.returncode == 2, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("compiling the engine")]
    assert len(said) == 1 and said[0].startswith("error: ") and words in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_out_and_json_and_quiet(trace_path, tmp_path):
    words = ("run", "policy=lru", "engine=untimed", f"trace.path={trace_path}", "cache.bytes=2e4")
    done = sim(*words, f"out={tmp_path / 'my runs' / 'a=1'}", "format=json")
    found = json.loads(done.stdout)
    assert found["folder"] == str(tmp_path / "my runs" / "a=1") and found["label"] == "SIMULATED"
    assert found["metrics"] == json.loads((Path(found["folder"]) / "metrics.json").read_text())
    done = sim(*words, f"out={tmp_path / 'b'}", "quiet=true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and (tmp_path / "b" / "metrics.json").is_file()
    for said in ("2 runs in", "2 of them kept from before"):
        done = sim(*words, f"out={tmp_path / 'sweep'}", "-m", "seed=0,1")
        assert said in done.stdout and f"python -m sim compare {tmp_path / 'sweep'}" in done.stdout
    assert sim("--version").stdout.startswith("moe-offload-sim ")


@pytest.mark.slow
def test_timeline_and_what_if_leave_their_files(trace_path, tmp_path):
    done = sim(
        "run", "policy=lru", "timeline=true", "timeline_steps=3", "what_if=true", f"trace.path={trace_path}",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"timeline of 3 of 13 steps in {tmp_path / 'timeline.json.gz'}" in done.stdout
    assert "what if (SIMULATED" in done.stdout and "infinite link" in done.stdout
    events = json.loads(gzip.decompress((tmp_path / "timeline.json.gz").read_bytes()))["traceEvents"]
    assert sum("step" in event.get("args", {}) for event in events) == 3
    answers, metrics = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("what_if", "metrics"))
    assert answers["label"] == "SIMULATED" and len(answers["scenarios"]) == 6
    assert answers["baseline"]["tpot_s"] == metrics["tpot_s.mean"]
    assert answers["binding"] in done.stdout and answers["bound"] in done.stdout


def test_only_the_first_compilation_is_announced(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(OURS, str(tmp_path / "cache"))
    assert nothing_compiled()
    (tmp_path / "cache").mkdir()
    assert not nothing_compiled()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "chosen"))  # the user's own: what it holds is not known
    assert not nothing_compiled()


def test_help_teaches():
    overview = sim("--help")
    assert overview.returncode == 0 and "run" in overview.stdout and "record" in overview.stdout
    assert "cache.fraction" in sim("run", "--help").stdout
