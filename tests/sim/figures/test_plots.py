"""Figures and tables of fake run folders: what is read, what is refused, and that the files are the same every time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sim.commands import plot
from sim.figures.conclusions import best, doubt, indistinct
from sim.figures.notes import footnote
from sim.figures.registry import FIGURES, figures_of, save
from sim.figures.run_table import study
from sim.results.run_files import unfinished_runs
from sim.results.table import FIRST_ORDER, METHOD, collect
from sim.statistics.bootstrap import request_interval
from sim.timeline.event_file import NAME, TimelineFile
from tests.support.random_traces import random_trace
from tests.support.replays import replay_of
from traces.errors import UserError

SECONDS = {"attention": 0.004, "expert": 0.006, "link": 0.1, "cpu": 0.01, "launch": 0.008, "sync": 0.002, "host": 0.08}
HITS = {"lru": 0.8, "importance": 1.0, "belady": 1.1}


def write_run(
    folder: Path,
    policy: str,
    share: float,
    *,
    overrides: tuple[str, ...] = (),
    estimated: tuple[str, ...] = (),
    requests: int = 12,
    **changed: Any,
) -> Path:
    """A run folder as `python -m sim run` leaves it, with invented results that depend on policy and share."""
    hit_rate = min(1.0, HITS.get(policy, 1.0) * share**0.5)
    seconds = {part: value * ((1 - hit_rate) * 2 if part == "link" else 1.0) for part, value in SECONDS.items()}
    tpot = sum(seconds.values())
    rng = np.random.default_rng(round(share * 100) + len(policy))
    request = np.repeat(np.arange(requests), 6)  # one prefill step, five decode steps
    phase = np.tile([0, 1, 1, 1, 1, 1], requests)
    latency = tpot * 1e9 * rng.normal(1, 0.1, requests)[request] * np.where(phase == 1, 1, 8)
    hits = rng.binomial(48, hit_rate, len(request))
    folder.mkdir(parents=True)
    steps = {"group": request, "request": request, "phase": phase, "num_tokens": 1, "demanded": 48, "hits": hits}
    pd.DataFrame(steps | {"latency_ns": latency.astype(np.int64)}).to_parquet(folder / "steps.parquet")
    pd.DataFrame(
        {
            "request": np.arange(requests),
            "group": np.arange(requests),
            "tpot_s": latency[phase == 1].reshape(requests, 5).mean(1) / 1e9,
        }
    ).to_parquet(folder / "requests.parquet")
    metrics = {
        "hit_rate": hit_rate, "decode.hit_rate": hit_rate, "cache_ratio": hit_rate, "substitution_rate": 0.1,
        "bytes_per_token": 5e8,
        "tpot_s.mean": tpot, "tpot_s.p99": tpot * 1.3, "ttft_s.mean": None,
        **{f"time_s_per_token.{part}": value for part, value in seconds.items()},
    }  # fmt: skip
    provenance = {
        "policy": policy, "trace": "demo", "trace_hash": "a" * 64, "hardware": "s1_rtx3080ti", "model": None,
        "layers": 6, "model_layers": 27, "label": "SIMULATED", "estimated": list(estimated), "batch_size": 1, "seed": 0,
        "cache": {"fraction": share, "slots_per_layer": None, "scope": "layer", "effective_fraction": share},
        **changed,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / ".hydra").mkdir()
    words = [f"policy={policy}", f"cache.fraction={share}", *overrides]
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    return folder


def write_timeline(folder: Path) -> None:
    """The timeline of a real replay: one prefill step, seven decode steps of three layers."""
    replay = replay_of(random_trace(0, prompts=(4,), decodes=(7,)), "importance", slots_per_layer=3, timeline=True)
    with TimelineFile(folder / NAME, replay) as timeline:
        for result in replay.blocks():
            timeline.add(result)


def test_what_a_paired_interval_cannot_tell_apart_is_said_to_be_so(tmp_path: Path) -> None:
    for place, policy in enumerate(("fifo", "slru", "lru")):
        write_run(tmp_path / str(place), policy, 0.25)
    table = study(tmp_path).set_index("contender", drop=False)
    fifo, slru, lru = (table.loc[name] for name in ("fifo", "slru", "lru"))
    assert indistinct(fifo, slru, "tpot_s.mean") and not indistinct(fifo, lru, "tpot_s.mean")
    assert doubt([True, False]) == " (not distinguishable in 1 of 2 cases)" and doubt([False]) == ""
    two = table[table["contender"] != "lru"].copy()
    two.loc["fifo", "tpot_s.mean"] *= 0.97
    assert best(two, "tpot_s.mean", "is fastest", "less than") == (
        "fifo is fastest: 3 % less than slru (not distinguishable)."
    )


def test_without_machines_intervals_are_over_requests_alone(tmp_path: Path) -> None:
    uncertain = {"hardware": {"uncertainty": {"link_bytes_per_s": 0.2}}}
    moves = {"link_bytes_per_s": dict.fromkeys(("link",), -1.0)}
    write_run(tmp_path / "0", "lru", 0.25, config=uncertain, elasticities=moves)
    whole, alone = study(tmp_path).iloc[0], study(tmp_path, of_machines=False)
    assert whole["interval_method"] == METHOD + FIRST_ORDER and alone["interval_method"].iloc[0] == METHOD
    assert "errors" in footnote(study(tmp_path), True) and "machine" not in footnote(alone, True)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of three policies over three capacities, and one run of each that does not depend on it."""
    folder = tmp_path / "sweep"
    note = ("the geometry of deepseek_moe_16b is put under the routing of demo",)
    job = 0
    for policy in HITS:
        for share in (0.1, 0.25, 0.5):
            write_run(folder / str(job), policy, share, estimated=note)
            job += 1
    write_run(folder / str(job), "all_resident", 1.0, estimated=note)
    write_timeline(folder / "0")
    return folder


def test_collect_reads_every_run(sweep: Path) -> None:
    table = collect(sweep)
    assert len(table) == 10
    assert table["capacity"].is_monotonic_increasing
    assert sorted(table["series"].unique()) == ["all_resident", "belady", "importance", "lru"]
    row = table[(table["series"] == "lru") & (table["capacity"] == 0.25)].iloc[0]
    assert row["hit_rate"] == pytest.approx(0.4)
    assert row["hit_rate.low"] < 0.4 < row["hit_rate.high"]
    assert row["tpot_s.low"] < row["tpot_s.mean"] < row["tpot_s.high"]
    assert row["requests"] == 12
    assert np.isnan(row["ttft_s.mean"])


def test_series_carry_the_settings_that_differ(tmp_path: Path) -> None:
    write_run(tmp_path / "0", "lru", 0.25, hardware="s1")
    write_run(tmp_path / "1", "lru", 0.25, hardware="s3")
    write_run(tmp_path / "2", "importance", 0.25, hardware="s3", overrides=("policy/eviction=lru", "hardware=s3"))
    assert sorted(collect(tmp_path)["series"]) == [
        "importance hardware=s3 eviction=lru",
        "lru hardware=s1",
        "lru hardware=s3",
    ]


def test_one_run_is_a_folder_too(tmp_path: Path) -> None:
    assert len(collect(write_run(tmp_path / "only", "lru", 0.25))) == 1


def test_requests_in_lockstep_are_one_block(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "lru", 0.25, batch_size=2)
    # Two batches of two: the first takes 6 s and 4 s per token, the second 5 s.
    pd.DataFrame({"group": [0, 0, 0, 1, 1], "hits": 1, "demanded": 2}).to_parquet(run / "steps.parquet")
    pd.DataFrame({"group": [0, 0, 1, 1], "tpot_s": [6.0, 4.0, 5.0, 5.0]}).to_parquet(run / "requests.parquet")
    row = collect(run).iloc[0]
    assert (row["tpot_s.low"], row["tpot_s.high"]) == (5, 5)
    assert row["requests"] == 2


def test_a_replay_without_a_clock_has_hit_rates_only(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "lru", 0.25)
    pd.read_parquet(run / "requests.parquet").drop(columns="tpot_s").to_parquet(run / "requests.parquet")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {name: None for name in metrics if "_s" in name.split(".")[0]}
    (run / "metrics.json").write_text(json.dumps(metrics))
    table = collect(run)
    assert np.isnan(table["tpot_s.low"].iloc[0])
    assert not np.isnan(table["hit_rate.low"].iloc[0])
    assert "-" in plot.format_table(table)
    assert [name for name, _ in figures_of(tmp_path, [], 1)] == []


def _cut(run: Path) -> None:
    path = run / "steps.parquet"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: (run / "metrics.json").write_text('{"hit_rate": 0.'), "metrics.json is broken"),
        (lambda run: (run / "metrics.json").write_text("[1]"), "must hold names and values"),
        (lambda run: (run / "metrics.json").write_text("{}"), "lacks hit_rate"),
        (lambda run: (run / "provenance.json").unlink(), "provenance.json is missing"),
        (lambda run: (run / "provenance.json").write_text("{}"), "lacks policy"),
        (_cut, "steps.parquet cannot be read"),
    ],
)
def test_broken_runs_are_named(tmp_path: Path, damage: Callable[[Path], Any], sentence: str) -> None:
    write_run(tmp_path / "good", "lru", 0.25)
    damage(write_run(tmp_path / "bad", "lru", 0.5))
    with pytest.raises(UserError) as error:
        collect(tmp_path)
    assert sentence in str(error.value)
    assert "bad" in str(error.value)


def test_folders_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results"):
        collect(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        collect(tmp_path / "nowhere")


def test_a_failed_run_of_a_sweep_is_seen(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "failed" / ".hydra").mkdir(parents=True)
    assert unfinished_runs(sweep) == [sweep / "failed"]
    assert plot.main([str(sweep), "figure=attribution"]) == 0
    assert f"the run in {sweep / 'failed'} left no results" in capsys.readouterr().err


def test_interval_of_known_spread() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(10, 2, 400)
    low, high = request_interval(values, np.ones(400))
    assert low == pytest.approx(values.mean() - 1.96 * 0.1, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * 0.1, abs=0.03)
    assert request_interval(values, np.ones(400)) == (low, high)
    assert request_interval(np.full(5, 3.0), np.full(5, 6.0)) == (0.5, 0.5)
    assert np.isnan(request_interval(np.ones(1), np.ones(1))).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["capacity", "attribution", "timeline"])
@pytest.mark.parametrize("columns", [1, 2])
def test_figures_are_the_same_bytes_each_time(sweep: Path, tmp_path: Path, name: str, columns: int) -> None:
    runs = study(sweep).head(6)  # fewer panels draw faster
    written = []
    for out in ("a", "b"):
        ((_, figure),) = figures_of(sweep, [name], columns, runs=runs)
        written.append(save(figure, tmp_path / out / name))
    assert [path.suffix for path in written[0]] == [".pdf", ".png", ".svg"]
    for one, two in zip(*written, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.stat().st_size > 5000
    assert b"CreationDate" not in written[0][0].read_bytes()


def test_footnote_says_how_far_to_trust_it(sweep: Path) -> None:
    text = footnote(collect(sweep), interval=True)
    assert text.startswith("SIMULATED: trace demo, hardware s1_rtx3080ti, batch size 1.")
    assert "95\u00a0% bootstrap over 12 requests" in text
    assert text.count("ESTIMATED: the geometry of deepseek_moe_16b") == 1


def test_command_prints_and_writes(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main([str(sweep), "figure=capacity", "columns=1", f"out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("times SIMULATED, for 6 of 27 layers")
    assert "hit %, decode" in printed and "tokens/s" in printed
    assert "importance" in printed
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"capacity.{form}" for form in ("pdf", "png", "svg")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x", "figure=pie"], "figure=pie is not known: known are capacity, hit_rates, attribution"),
        (["x", "columns=3"], "columns=3: 1 or 2 columns"),
        (["x", "steps=5-4"], "steps=5-4: must be a step, or the first and the last one"),
        (["x", "steps=all"], "steps=all: must be a step"),
        (["x", "depth=3"], "depth=3 is not known"),
        (["x", "y"], "plot takes one folder or trace, got 2"),
        (["figure=capacity"], "plot takes one folder or trace, got 0"),
    ],
)
def test_wrong_words_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        plot.main(words)
    assert sentence in str(error.value)


def test_help_lists_every_figure_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    for name, drawing in FIGURES.items():
        assert [line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == [f"figure={name}"]] == [drawing.says]
    assert plot.main([]) == 2
