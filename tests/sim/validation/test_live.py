"""Real runs beside simulation, on runs of a machine whose constants are known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.execution.settings import RealSettings
from sim.machine.machine import Machine
from sim.validation import measure as measuring
from sim.validation.calibrated import calibrate
from sim.validation.compare import Compared, decision_row, gain_rows, ranking_rows
from sim.validation.in_situ import fit, machine, repeat_spread
from sim.validation.live import analyse, compare_runs
from sim.validation.measure import begin, measure, passes, round_of
from sim.validation.plan import (
    CALIBRATION,
    MOSTLY_HITS,
    MOSTLY_MISSES,
    PAIRS,
    REQUESTS,
    SETTINGS,
    make_plan,
    plan_from_json,
    replay_of,
    steps_of,
)
from sim.validation.raw_runs import RawRun, gather, gathered, store, stored
from sim.validation.simulate import simulate
from tests.sim.validation import fake_runs as fake
from tests.sim.validation.fake_runs import PLAN, TRUE, fake_run
from tests.support.devices import DEVICES
from traces.errors import UserError

GATE = 0.1


@pytest.fixture(scope="module")
def exact() -> list[RawRun]:
    return fake.fake_runs()


def runs_of(runs: list[RawRun], name: str) -> list[RawRun]:
    return [run for run in runs if run.setting == name]


def test_calibration_recovers_the_constants(exact: list[RawRun]) -> None:
    constants = fit(PLAN, runs_of(exact, MOSTLY_HITS), runs_of(exact, MOSTLY_MISSES))
    assert constants.attention_s == pytest.approx(TRUE.attention_s, rel=1e-6)
    assert constants.expert_s == pytest.approx(TRUE.expert_s, rel=1e-3)
    assert constants.host_s == pytest.approx(TRUE.host_s, rel=0.02)
    assert constants.call_s == pytest.approx(TRUE.call_s, rel=0.05)
    assert constants.wake_s == pytest.approx(TRUE.wake_s, rel=0.1)


def test_a_machine_as_modelled_is_predicted_in_every_respect(exact: list[RawRun]) -> None:
    findings = compare_runs(PLAN, exact, GATE, draws=5)
    assert findings.summary["decisions"]["demand_only_settings"] == 3
    assert findings.summary["decisions"]["demand_only_identical"] == 3
    assert findings.summary["decisions"]["prefetch_least_outcomes_equal"] > 0.95
    assert abs(findings.summary["decisions"]["prefetch_worst_bytes_error_percent"]) < 1
    for name in ("mean", "p50", "p90", "p99"):
        assert findings.summary[f"time per token, {name}"]["count"] == 4
        assert abs(findings.summary[f"time per token, {name}"]["worst_error_percent"]) < 2.0
    assert findings.summary["time per layer"]["count"] == 24
    assert abs(findings.summary["time per layer"]["worst_error_percent"]) < 3.0
    assert findings.summary["ranking"] == {"resolved_pairs": 6, "right": 6}
    gain = findings.tables["prefetch_gain"][0]
    assert gain["predicted_gain_percent"] == pytest.approx(gain["measured_gain_percent"], abs=1.0)
    for row in findings.tables["tokens"]:
        if row["statistic"] == "mean":
            assert float(row["correlation_per_token"]) > 0.99  # type: ignore[arg-type]


def test_a_slower_run_is_an_error_of_its_size_and_held_out_runs_do_not_calibrate(exact: list[RawRun]) -> None:
    slow = [fake_run(PLAN.setting(r.setting), r.index, slower=1.25) if r.setting == "lfu_20" else r for r in exact]
    before, after = (compare_runs(PLAN, runs, GATE, draws=2) for runs in (exact, slow))
    rows = [
        {str(row["setting"]): row for row in findings.tables["tokens"] if row["statistic"] == "mean"}
        for findings in (before, after)
    ]
    for name in rows[0]:
        assert rows[0][name]["predicted_ms"] == rows[1][name]["predicted_ms"]
    assert float(rows[1]["lfu_20"]["error_percent"]) == pytest.approx(-20.0, abs=1.0)  # type: ignore[arg-type]


@pytest.mark.slow
def test_intervals_cover_noisy_means() -> None:
    """With noise as the model of the interval assumes, about nine in ten means lie inside."""
    inside = count = 0
    for seed in range(4):
        summary = compare_runs(PLAN, fake.fake_runs(0.03, 3, seed), GATE, draws=25).summary["interval of 90 %"]
        inside, count = inside + summary["inside"], count + summary["settings"]
    assert count == 16
    assert inside >= 12


def test_disturbed_runs_are_dropped_and_named(exact: list[RawRun]) -> None:
    wild = [fake_run(PLAN.setting(run.setting), 7, slower=3.0, disturbance=0.4) for run in exact[:4]]
    findings = compare_runs(PLAN, [*exact, *wild], GATE, draws=2)
    assert abs(findings.summary["time per token, mean"]["worst_error_percent"]) < 1.0
    assert findings.summary["noise gate"]["runs_passed"] == len(exact)
    assert sum(not row["passed"] for row in findings.tables["runs"]) == len(wild)
    assert any(f"{len(wild)} of {len(exact) + len(wild)} runs were dropped" in note for note in findings.notes)
    assert "TOO FEW" in findings.notes[0]  # four settings are not twelve


def test_a_machine_too_noisy_for_any_time_says_so(exact: list[RawRun]) -> None:
    findings = compare_runs(PLAN, [replace(run, disturbance=0.7) for run in exact], GATE, draws=2)
    assert findings.summary["noise gate"]["settings_with_all_repeats"] == 0
    assert not findings.summary["noise gate"]["enough"]
    assert findings.tables["tokens"] == []
    assert findings.summary["time per token, mean"]["mean_absolute_error_percent"] is None
    assert findings.summary["decisions"]["demand_only_identical"] == 3
    assert "TOO FEW" in findings.notes[0]
    assert any("constants come from disturbed runs" in note for note in findings.notes)


def test_waiting_for_a_core_drops_a_run_too(exact: list[RawRun]) -> None:
    run = exact[0]
    assert passes(run, GATE)
    assert passes(replace(run, disturbance=None, waited_share=None), GATE)
    assert not passes(replace(run, waited_share=0.2), GATE)
    assert not passes(replace(run, disturbance=0.2), GATE)


def test_other_decisions_are_seen(exact: list[RawRun]) -> None:
    run = runs_of(exact, "lru_12")[0]
    hits, fetches, copied = (run.columns[name].copy() for name in ("hits", "fetches", "copied_bytes"))
    hits[4] -= 1
    fetches[4] += 1
    copied[4] += PLAN.real.expert_bytes
    other = replace(run, columns=run.columns | {"hits": hits, "fetches": fetches, "copied_bytes": copied})
    setting = PLAN.setting("lru_12")
    simulated = simulate(PLAN, setting, machine(PLAN, TRUE))
    row = decision_row(Compared(setting, simulated, [run, other], []))
    steps, demanded = len(hits), int(run.columns["demanded"].sum())
    assert row["steps_all_counts_equal"] == pytest.approx(1 - 1 / steps)
    assert row["outcomes_equal"] == pytest.approx(1 - 1 / demanded)
    total = float(run.columns["copied_bytes"].sum())
    assert row["bytes_error_percent"] == pytest.approx(100 * (total / (total + PLAN.real.expert_bytes) - 1))


def test_ranking_by_hand(exact: list[RawRun]) -> None:
    """12 beside 10 ms with standard errors of 0.3 ms each: resolved; 10.5 beside 10 ms: not."""
    setting = PLAN.setting("lru_12")
    simulated = simulate(PLAN, setting, machine(PLAN, TRUE))

    def compared(name: str, means_ms: list[float], predicted_ms: float) -> Compared:
        base = runs_of(exact, "lru_12")[0]
        runs = [replace(base, columns=base.columns | {"latency_ns": np.full(4, 1e6 * mean)}) for mean in means_ms]
        times = np.full(4, round(1e6 * predicted_ms), np.int64)
        return Compared(replace(setting, name=name), replace(simulated, latency_ns=times), runs, runs)

    spread = 0.3 * np.sqrt(2)
    ten = compared("ten", [10 - spread / np.sqrt(2), 10 + spread / np.sqrt(2)], 10.2)
    near = compared("near", [10.5 - spread / np.sqrt(2), 10.5 + spread / np.sqrt(2)], 9.0)
    twelve = compared("twelve", [12 - spread / np.sqrt(2), 12 + spread / np.sqrt(2)], 9.9)
    (row, other) = ranking_rows([ten, near, twelve])
    assert (row["one"], row["other"], row["right"]) == ("ten", "twelve", False)
    assert row["measured_gap_ms"] == pytest.approx(2.0)
    assert row["standard_error_ms"] == pytest.approx(0.3 * np.sqrt(2))
    assert (other["one"], other["other"], other["right"]) == ("near", "twelve", True)
    (gain,) = gain_rows([ten, twelve], [("twelve", "ten")])
    assert gain["measured_gain_percent"] == pytest.approx(100 * (1 - 10 / 12))
    assert gain["predicted_gain_percent"] == pytest.approx(100 * (1 - 10.2 / 9.9))


def test_repeat_spread_by_hand(exact: list[RawRun]) -> None:
    def run(mean: float) -> RawRun:
        return replace(exact[0], columns={"latency_ns": np.array([mean])})

    # 9 and 11 are 10 % off their mean: sqrt(0.02 / 1).
    one, two = repeat_spread([run(9.0), run(11.0)]), repeat_spread([run(9.0), run(11.0)], [run(5.0), run(5.0)])
    assert one is not None and (one.relative, one.freedom) == (pytest.approx(np.sqrt(0.02)), 1)
    assert two is not None and (two.relative, two.freedom) == (pytest.approx(np.sqrt(0.01)), 2)
    assert repeat_spread([run(9.0)]) is None


def test_a_given_machine_takes_the_place_of_calibration(exact: list[RawRun]) -> None:
    findings = compare_runs(PLAN, exact, GATE, draws=0, machine=machine(PLAN, TRUE))
    assert abs(findings.summary["time per token, mean"]["worst_error_percent"]) < 0.2
    assert findings.summary["interval of 90 %"]["settings"] == 0
    exact_machine = machine(PLAN, TRUE)
    costs = replace(exact_machine.runtime, uncertainty={"host_s_per_layer": 0.05})
    known = replace(exact_machine, runtime=costs)
    again = compare_runs(PLAN, exact, GATE, draws=20, machine=known)
    assert again.summary["interval of 90 %"] == {"settings": 4, "inside": 4, "share": 1.0}


def test_layers_add_up_to_the_token() -> None:
    for setting in PLAN.settings:
        plain, layered = (simulate(PLAN, setting, machine(PLAN, TRUE), layers=on) for on in (False, True))
        np.testing.assert_array_equal(plain.latency_ns, layered.latency_ns)
        np.testing.assert_array_equal(layered.layer_ns.sum(axis=1), layered.latency_ns)  # type: ignore[union-attr]
        np.testing.assert_array_equal(plain.counts, layered.counts)


def test_nothing_that_calibrates_is_compared() -> None:
    held_in = {(one.first_request + r) for one in CALIBRATION for r in range(REQUESTS)}
    held_out = {(one.first_request + r) for one in SETTINGS for r in range(REQUESTS)}
    assert not held_in & held_out
    assert not {one.slots for one in CALIBRATION} & {one.slots for one in SETTINGS}
    assert len(SETTINGS) >= 12
    assert len({one.name for one in (*SETTINGS, *CALIBRATION)}) == len(SETTINGS) + len(CALIBRATION)
    assert {name for pair in PAIRS for name in pair} <= {one.name for one in SETTINGS}


@pytest.mark.slow
def test_every_setting_can_be_replayed_and_a_large_prefetch_gain_is_predicted() -> None:
    plan = make_plan(fake.REAL, 4, 20)
    hardware: Machine = machine(plan, replace(TRUE, attention_s=1.2e-4, expert_s=8e-6, host_s=1e-5))
    times = {one.name: simulate(plan, one, hardware).latency_ns.mean() for one in plan.settings}
    assert all(time > 0 for time in times.values())
    assert min(times[after] / times[before] for before, after in PAIRS) < 0.8
    for setting in (*SETTINGS, *CALIBRATION):
        skipped, steps = steps_of(setting, 20)
        assert steps - skipped == 20
        assert replay_of(plan, setting, hardware).schedule.num_steps() >= steps


def test_a_plan_survives_its_file() -> None:
    for plan in (PLAN, make_plan(fake.REAL, 4, 100)):
        again = plan_from_json(json.loads(json.dumps(plan.as_json())), Path("plan.json"))
        assert again == plan
        assert again.fingerprint() == plan.fingerprint()
    assert replace(PLAN, tokens=31).fingerprint() != PLAN.fingerprint()


def test_runs_survive_their_files(tmp_path: Path, exact: list[RawRun]) -> None:
    for run in exact[:5]:
        store(tmp_path, run)
    again = stored(tmp_path)
    assert sorted(run.setting for run in again) == sorted(run.setting for run in exact[:5])
    gather(tmp_path, exact)
    assert not (tmp_path / "raw").exists()
    for before, after in zip(exact, gathered(tmp_path), strict=True):
        assert replace(before, columns={}) == replace(after, columns={})
        for name, column in before.columns.items():
            np.testing.assert_array_equal(after.columns[name], column)
    with pytest.raises(UserError, match="holds no tokens"):
        gathered(tmp_path / "nothing")


def test_the_analysis_of_stored_runs_is_that_of_the_runs(tmp_path: Path, exact: list[RawRun]) -> None:
    begin(tmp_path, PLAN)
    gather(tmp_path, exact)
    assert analyse(tmp_path, GATE, 3).summary == compare_runs(PLAN, exact, GATE, 3).summary


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, exact: list[RawRun]) -> list[str]:
    """Real runs are looked up; the names of those that ran are kept."""
    ran: list[str] = []

    def run_once(plan: object, setting: object, index: int) -> RawRun:
        name = setting.name  # type: ignore[attr-defined]
        ran.append(name)
        return replace(runs_of(exact, name)[0], index=index)

    monkeypatch.setattr(measuring, "run_once", run_once)
    return ran


def test_every_setting_gets_its_repeats_in_interleaved_rounds(tmp_path: Path, quick: list[str]) -> None:
    runs = measure(tmp_path, PLAN, GATE, 1e9)
    assert len(runs) == 18
    for number in range(3):
        assert len(set(quick[6 * number : 6 * number + 6])) == 6
    assert quick[:6] != quick[6:12]


def test_an_interrupted_measurement_goes_on(tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, count = measuring.run_once, 0

    def stops(*given: object) -> RawRun:
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "run_once", stops)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, PLAN, GATE, 1e9)
    assert len(stored(tmp_path)) == 7
    runs = measure(tmp_path, PLAN, GATE, 1e9)
    assert len(runs) == 18
    assert count == 8 + 11
    assert {one.name: sum(run.setting == one.name for run in runs) for one in PLAN.settings} == {
        one.name: 3 for one in PLAN.settings
    }


def test_another_plan_or_a_finished_folder_begins_anew(tmp_path: Path, exact: list[RawRun]) -> None:
    assert begin(tmp_path, PLAN) == []
    store(tmp_path, exact[0])
    assert len(begin(tmp_path, PLAN)) == 1
    assert begin(tmp_path, replace(PLAN, tokens=29)) == []
    store(tmp_path, exact[0])
    gather(tmp_path, exact[:1])
    assert begin(tmp_path, replace(PLAN, tokens=29)) == []
    assert not (tmp_path / "runs.json").exists()


def test_the_time_budget_ends_a_measurement(tmp_path: Path, quick: list[str]) -> None:
    assert measure(tmp_path, PLAN, GATE, 1e-9) == []
    assert quick == []


def test_disturbed_settings_are_run_again_with_calibration_beside_them(exact: list[RawRun]) -> None:
    everything = (*PLAN.settings, *PLAN.calibration)
    runs = [replace(run, disturbance=0.5) if run.setting == "lfu_20" and run.index == 1 else run for run in exact]
    rng = np.random.default_rng(0)
    assert round_of(PLAN, everything, exact, GATE, 3, rng) == []
    names = {one.name for one in round_of(PLAN, everything, runs, GATE, 3, rng)}
    assert names == {"lfu_20", MOSTLY_HITS, MOSTLY_MISSES}


def test_calibration_without_runs_is_refused(exact: list[RawRun]) -> None:
    with pytest.raises(UserError, match="calibration needs runs of calibrate_hits and calibrate_misses"):
        calibrate(PLAN, runs_of(exact, "lru_12"), GATE, 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["lru_12", "exact_12"])
def test_a_real_run_is_compared_with_its_simulation(device: str, name: str) -> None:
    """One tiny run for real: the demand-only one must decide as simulated, whatever the machine does."""
    real = RealSettings(device=device, hidden_size=32, expert_ffn=48, attention_bytes=4096, link_bytes_per_s=None)
    plan = replace(PLAN, real=real, tokens=5)
    setting = plan.setting(name)
    run = measuring.run_once(plan, setting, 0)
    simulated = simulate(plan, setting, machine(plan, TRUE), layers=True)
    row = decision_row(Compared(setting, simulated, [run], [run]))
    assert row["prefetch"] == (name == "exact_12")
    if name == "lru_12":
        assert row["steps_all_counts_equal"] == 1.0
        assert row["bytes_error_percent"] == 0.0
    assert len(run.columns["latency_ns"]) == 5
    assert len(run.layer_ns) == 6
    assert sum(run.layer_ns) <= run.mean("latency_ns")
    assert run.copies >= int(run.columns["demand_copies"].sum()) > 0
