"""Runs of a sweep: their keys, the grid of a job, what is skipped, what a failure leaves."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from sim.assembly.compose import compose_run
from sim.paths import CONF
from sim.results.gather import gather
from sim.results.run_files import finished_runs, unfinished_runs
from sim.results.table import collect
from sim.run.execute import DeviceRun, SystemRun, execute
from sim.sweep import jobs
from sim.sweep import key as sweep_key
from sim.sweep.end import SweepEnd, watch_sweep
from sim.sweep.grid import axes, expand
from sim.sweep.jobs import objectives, place_of, run_all, run_grid
from tests.support.random_traces import random_trace
from traces.errors import UserError
from traces.format.files import write_trace
from traces.whole_file import unfinished_name


@pytest.fixture(scope="module")
def trace_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "small.safetensors"
    write_trace(path, random_trace(0, num_layers=2, num_experts=8, top_k=2))
    return path


def config_of(*words: str) -> DictConfig:
    return compose_run("policy=lru", "engine=compiled", *words)


def key_of(tmp_path: Path, *words: str) -> str:
    return place_of(config_of(*words), tmp_path).key


def test_the_key_is_that_of_the_content(trace_path, tmp_path, monkeypatch):
    key = key_of(tmp_path, f"trace.path={trace_path}")
    moved = shutil.copy(trace_path, tmp_path / "moved.safetensors")
    assert key_of(tmp_path, f"trace.path={moved}", "sweep.name=other", "+sweep.grid.seed=[1]") == key
    write_trace(tmp_path / "other.safetensors", random_trace(1, num_layers=2, num_experts=8, top_k=2))
    different = {
        key_of(tmp_path, f"trace.path={tmp_path / 'other.safetensors'}"),
        key_of(tmp_path, f"trace.path={trace_path}", "seed=1"),
        key_of(tmp_path, f"trace.path={trace_path}", "policy=importance"),
        key_of(tmp_path, f"trace.path={trace_path}", "trace.requests=1"),
        key_of(tmp_path, f"trace.path={trace_path}", "hardware.link_bytes_per_s=1e9"),
    }
    monkeypatch.setattr(sweep_key, "code_version", lambda: "edited")
    different.add(key_of(tmp_path, f"trace.path={trace_path}"))
    assert len(different) == 6 and key not in different


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "engine=compiled policy=importance what_if=true timeline=true",
        "engine=untimed policy=buddymoe policy/allocation=miss_curve",
        "engine=simpy policy=edgemoe",
        "system=od_moe",
        "system=expert_streaming",
    ],
)
def test_every_module_that_a_run_imports_counts(words, trace_path, tmp_path):
    only_tell = ("sim.commands", "sim.errors", "sim.hydra_command", "sim.results.summary", "sim.sweep", "sim.__main__",
                 "sim.docstrings", "sim.terminal")  # fmt: skip
    code = (
        "import sys, sim.__main__\n"
        "assert sim.__main__.main(sys.argv[1:]) == 0\n"
        "print(*[name for name in sys.modules if name.split('.')[0] in ('sim', 'policies', 'traces')])"
    )
    command = [sys.executable, "-c", code, "run", "trace.requests=2", f"hydra.run.dir={tmp_path}", *words.split()]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, check=True)
    imported = {
        name for name in done.stdout.splitlines()[-1].split() if name != "sim.sweep" and not name.startswith(only_tell)
    }
    assert {"sim.assembly.build", "policies.base"} < imported
    assert imported <= set(sweep_key.deciding_sources())


def test_editing_a_figure_repeats_no_run():
    names = sweep_key.deciding_sources()
    assert not [name for name in names if name.startswith(("sim.figures", "sim.report", "sim.results.gather"))]


def test_files_that_a_policy_names_count_by_content(tmp_path):
    def key(text: str) -> str:
        (tmp_path / "weights").write_text(text)
        return sweep_key.run_key({"policy": {"prediction": {"checkpoint": str(tmp_path / "weights")}}}, "")

    assert key("a") == key("a") != key("b")


@pytest.mark.parametrize("name", ["mine.yaml", "folder/mine.yaml"])
def test_a_machine_in_a_file_counts_by_content(name, trace_path, tmp_path, monkeypatch):
    """Edit one number of the file: the same sweep has to run again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    text = (CONF / "hardware" / "s1_rtx3080ti.yaml").read_text()
    words = (f"trace.path={trace_path}", f"hardware={name}")
    keys = []
    for rate in ("link_bytes_per_s: 1e9", "link_bytes_per_s: 2e9", "link_bytes_per_s: 1e9"):
        Path(name).write_text(re.sub(r"(?m)^link_bytes_per_s: \S+", rate, text))
        keys.append(key_of(tmp_path, *words))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("text", ["~nobody/x.yaml", "a" * 10_000 + "/b", "nul\0/x.yaml", "1.5", ""])
def test_what_names_no_file_counts_as_text(text):
    assert sweep_key.run_key({"hardware": {"path": text}}, "") != sweep_key.run_key({"hardware": {"path": "x"}}, "")


def test_a_rule_in_a_folder_of_its_own_counts_by_content(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def key(text: str) -> str:
        (tmp_path / "my_rule.py").write_text(text)
        return sweep_key.run_key({"policy": {"eviction": {"_target_": "my_rule.Mine"}}}, "")

    assert key("a = 1") == key("a = 1") != key("a = 2")


def test_a_grid_is_every_combination_the_last_key_fastest():
    config = config_of("+sweep.grid.cache.fraction=[0.1,0.2]", "+sweep.grid.batch_size=[1,3]")
    runs = list(expand(config, ["policy=lru"]))
    assert [(run.config.cache.fraction, run.config.batch_size) for run in runs] == [
        (0.1, 1), (0.1, 3), (0.2, 1), (0.2, 3),
    ]  # fmt: skip
    assert runs[1].words == ("policy=lru", "cache.fraction=0.1", "batch_size=3")
    assert [run.words for run in expand(config_of(), [])] == [()]


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.lists(st.integers(), min_size=1, max_size=3), max_size=4)
)
def test_axes_keep_every_list(grid):
    assert dict(axes({"group": grid})) == {f"group.{key}": values for key, values in grid.items()}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("+sweep.grid.cache.fraction=0.5", "sweep.grid.cache.fraction=0.5: must be a list of at least one value"),
        ("+sweep.grid.cache.fraction=[]", "must be a list of at least one value"),
        ("+sweep.grid.policy=[lru,lfu]", "sweep.grid.policy: a group is chosen once per job"),
        ("+sweep.grid.cache.sloots=[1]", "cache.sloots is not a key of the configuration"),
        ("sweep.steps=maybe", "sweep.steps=maybe: must be true or false"),
    ],
)
def test_wrong_grids_are_refused(words, sentence):
    with pytest.raises(UserError, match=sentence.replace("[", r"\[")):
        list(expand(config_of(words), []))


def runs_of(trace_path: Path, *words: str):
    return list(expand(config_of(f"trace.path={trace_path}", *words), ["policy=lru"]))


class Counting:
    """Runs, and remembers what."""

    def __init__(self) -> None:
        self.done: list[float] = []
        self.fails: float | None = None

    def __call__(self, config: DictConfig, folder: Path) -> DeviceRun | SystemRun:
        if config.cache.fraction == self.fails:
            raise ZeroDivisionError("seven\ntimes nothing")
        self.done.append(config.cache.fraction)
        return execute(config, folder)


@pytest.fixture
def counting(monkeypatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(jobs, "execute", counting)
    return counting


def test_finished_runs_are_not_repeated_nor_touched(trace_path, tmp_path, counting):
    first = run_all(runs_of(trace_path, "+sweep.grid.cache.fraction=[0.25,0.5]"), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    second = run_all(runs_of(trace_path, "+sweep.grid.cache.fraction=[0.5,0.25,0.75]"), tmp_path)
    assert counting.done == [0.25, 0.5, 0.75]
    assert second[:2] == first[::-1] and len(finished_runs(tmp_path)) == 3
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())


def test_a_failure_is_recorded_and_the_rest_goes_on(trace_path, tmp_path, capsys, counting):
    runs = runs_of(trace_path, "+sweep.grid.cache.fraction=[0.25,0.5,7,0.75]")
    end = SweepEnd()
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    end.on_multirun_start(config)
    counting.fails = 0.5
    folders = run_all(runs, tmp_path)
    assert [folder is None for folder in folders] == [False, True, True, False]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "error: policy=lru cache.fraction=0.5: ZeroDivisionError: seven times nothing",
        "error: policy=lru cache.fraction=7: cache.fraction=7: must be above 0 and at most 1",
    ]
    records = [json.loads(path.read_text()) for path in (tmp_path / "failed").iterdir()]
    assert sorted((record["bad_input"], bool(record["traceback"])) for record in records) == [
        (False, True),
        (True, False),
    ]
    with watch_sweep() as outcome:
        end.on_multirun_end(config)
    assert outcome.exit_status == 1 and "2 runs failed" in capsys.readouterr().err
    assert len(unfinished_runs(tmp_path)) == 2 and len(pd.read_parquet(tmp_path / "results.parquet")) == 2

    end.on_multirun_start(config)  # the same again, mended: what failed is tried again, its record goes
    counting.fails = None
    run_all(runs, tmp_path)
    with watch_sweep() as outcome:
        end.on_multirun_end(config)
    assert outcome.exit_status == 2 and len(unfinished_runs(tmp_path)) == 1
    with watch_sweep() as outcome:
        pass
    assert outcome.exit_status == 0


def test_a_trace_that_cannot_be_read_is_a_failure_of_its_run(tmp_path, capsys):
    runs = list(expand(config_of("trace.path=/no/such/file"), ["trace.path=/no/such/file"]))
    assert run_all(runs, tmp_path) == [None]
    assert "Trace file /no/such/file does not exist" in capsys.readouterr().err


def test_what_a_killed_run_left_is_written_again(trace_path, tmp_path):
    (one,) = runs_of(trace_path)
    place = place_of(one.config, tmp_path)
    beside = tmp_path / unfinished_name(place.name)
    beside.mkdir()
    (beside / "metrics.json").write_text("{")
    assert finished_runs(tmp_path) == [] and unfinished_runs(tmp_path) == [beside]
    assert run_all([one], tmp_path) == [place.run]
    assert not beside.exists() and finished_runs(tmp_path) == [place.run]


def test_what_another_process_computes_is_looked_at_last(trace_path, tmp_path, counting, monkeypatch):
    runs = runs_of(trace_path, "+sweep.grid.cache.fraction=[0.25,0.5]")
    lock: FileLock = place_of(runs[0].config, tmp_path).lock()
    lock.acquire()

    def let_go(config: DictConfig, folder: Path) -> DeviceRun | SystemRun:
        if lock.is_locked:
            lock.release()
        return counting(config, folder)

    monkeypatch.setattr(jobs, "execute", let_go)
    run_all(runs, tmp_path)
    assert counting.done == [0.5, 0.25]


def test_objectives_are_the_metrics_of_the_only_run(trace_path, tmp_path):
    words = "sweep.objectives=[tpot_s.mean,bytes_per_token]"
    runs = runs_of(trace_path, words)
    folders = run_all(runs, tmp_path)
    metrics = json.loads((folders[0] / "metrics.json").read_text())
    assert objectives(config_of(words), folders) == [metrics["tpot_s.mean"], metrics["bytes_per_token"]]
    assert objectives(config_of("sweep.objectives=[hit_rate]"), folders) == metrics["hit_rate"]
    assert objectives(config_of(words), [None]) == [float("inf")] * 2
    assert objectives(config_of(), folders) is None
    with pytest.raises(UserError, match="has several runs, not one result"):
        objectives(config_of(words), [*folders, *folders])
    with pytest.raises(UserError, match="speed=None"):
        objectives(config_of("sweep.objectives=[speed]"), folders)


@pytest.fixture(scope="module")
def gathered(trace_path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gathered")
    run_all(runs_of(trace_path, "+sweep.grid.cache.fraction=[0.25,0.5]"), folder)
    importance = list(expand(config_of(f"trace.path={trace_path}", "policy=importance"), ["policy=importance"]))
    run_all(importance, folder)
    assert gather(folder) == 3
    return folder


def test_one_table_holds_all_runs(gathered):
    table = pd.read_parquet(gathered / "results.parquet")
    assert len(table) == 3 and set(table["policy"]) == {"lru", "importance"}
    for _, row in table.iterrows():
        metrics = json.loads((gathered / row["run"] / "metrics.json").read_text())
        assert row["tpot_s.mean"] == metrics["tpot_s.mean"] and row["label"] == "SIMULATED"
        assert row["tpot_s.low"] <= row["tpot_s.mean"] <= row["tpot_s.high"]
    requests = pd.read_parquet(gathered / "results_requests.parquet")
    assert set(requests["run"]) == set(table["run"]) and len(requests) == table["num_requests"].sum()
    blocks = pd.read_parquet(gathered / "results_blocks.parquet")
    assert blocks.groupby("run")["num_tokens"].sum().to_dict() == dict(
        zip(table["run"], table["num_tokens"], strict=True)
    )


def test_gathering_again_gives_the_same(gathered):
    before = pd.read_parquet(gathered / "results.parquet")
    gather(gathered)
    pd.testing.assert_frame_equal(pd.read_parquet(gathered / "results.parquet"), before)
    assert collect(gathered)["tpot_s.low"].tolist() == before["tpot_s.low"].tolist()


def test_duckdb_reads_the_table(gathered):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    rows = duckdb.sql(f"""SELECT policy, count(*), min("tpot_s.mean") FROM '{gathered}/results.parquet' GROUP BY 1""")
    assert {row[0]: row[1] for row in rows.fetchall()} == {"lru": 2, "importance": 1}


def test_polars_reads_the_table(gathered):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    table = polars.read_parquet(gathered / "results.parquet")
    assert table.height == 3 and table["tpot_s.mean"].null_count() == 0


def test_sums_are_kept_without_the_steps(trace_path, tmp_path):
    (run,) = run_all(runs_of(trace_path, "sweep.steps=false"), tmp_path)
    assert run is not None and not (run / "steps.parquet").exists()
    assert not pd.isna(collect(tmp_path)["hit_rate.low"].iloc[0])


def test_of_equal_runs_the_newest_code_counts(trace_path, tmp_path, monkeypatch):
    (old,) = run_all(runs_of(trace_path), tmp_path)
    monkeypatch.setattr(sweep_key, "code_version", lambda: "edited")
    (new,) = run_all(runs_of(trace_path), tmp_path)
    assert old != new and gather(tmp_path) == 2  # nothing is lost
    assert collect(tmp_path)["folder"].tolist() == [str(new)]


def test_a_mended_trace_takes_the_failure_away(trace_path, tmp_path):
    path = tmp_path / "t.safetensors"
    runs = list(expand(config_of(f"trace.path={path}"), ["policy=lru"]))
    assert run_all(runs, tmp_path / "out") == [None]
    assert len(unfinished_runs(tmp_path / "out")) == 1
    shutil.copy(trace_path, path)
    assert run_all(runs, tmp_path / "out") != [None]
    assert unfinished_runs(tmp_path / "out") == []


def test_a_wrong_grid_is_one_failure_of_its_job(tmp_path, capsys):
    config = config_of("+sweep.grid.cache.sloots=[1]")
    assert run_grid(config, ["policy=lru"], tmp_path) == [None]
    assert "error: policy=lru: sweep.grid.cache.sloots" in capsys.readouterr().err


def test_runs_of_other_systems_have_a_table_of_their_own(trace_path, tmp_path):
    run_all(runs_of(trace_path), tmp_path)
    other = tmp_path / "od_moe_0"
    other.mkdir()
    (other / "metrics.json").write_text('{"tokens_per_s": 3.5, "hit_rate": 0.5, "rows": [1]}')
    (other / "provenance.json").write_text('{"system": "od_moe", "overrides": ["system=od_moe"]}')
    assert gather(tmp_path) == 2 and len(pd.read_parquet(tmp_path / "results.parquet")) == 1
    assert pd.read_parquet(tmp_path / "results_systems.parquet")["tokens_per_s"].tolist() == [3.5]
