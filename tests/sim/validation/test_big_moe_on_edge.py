"""Published telemetry of a phone: constants of a made run are recovered, the engine's clock is the stated line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.eviction.lru import Lru
from sim.machine.capacity import CacheConfig
from sim.validation.config import PublishedConfig
from sim.validation.published.big_moe_on_edge.phone import fit_phone, phone_machine
from sim.validation.published.big_moe_on_edge.predict import predict_phone, predict_published
from sim.validation.published.big_moe_on_edge.stated_misses import trace_with_misses
from sim.validation.published.big_moe_on_edge.tables import from_reads, reads_of
from sim.validation.published.big_moe_on_edge.telemetry import Telemetry, read_telemetry
from sim.validation.published.demand_replay import NO_COMPUTE, replay_demand
from tests.support.random_traces import random_trace
from traces.errors import UserError
from traces.format.trace import Geometry

SHARED = Path("../shared/traces/big_moe_on_edge")
BYTES = 3_000_000
SETTINGS = {
    "cache_mb": 30, "io_threads": 4, "overlap": 1, "prefetch": 0, "n_prompt": 3, "n_layer": 4, "n_expert": 32,
    "n_expert_used": 2,
}  # fmt: skip


def geometry(layers: int = 4, experts: int = 32, top_k: int = 2) -> Geometry:
    return Geometry(
        "made", layers, experts, top_k, expert_bytes=(BYTES,) * layers, attention_bytes=(10_000_000,) * layers
    )


def made_run(tokens: int = 64, seed: int = 0) -> Telemetry:
    """Computing 40 ms, waiting 1 ms per expert (3 GB/s), managing 2 ms and 0.5 ms per expert."""
    reads = np.random.default_rng(seed).integers(0, 8, tokens).astype(np.float64)
    compute, stall, manage = np.full(tokens, 40.0), 1.0 * reads, 2.0 + 0.5 * reads
    return Telemetry(
        wall_ms=compute + stall + manage,
        io_ms=4 * 1.2 * reads,
        compute_ms=compute,
        stall_ms=stall,
        mgmt_ms=manage,
        read_bytes=reads * BYTES,
        cache_hit_pct=np.full(tokens, 50.0),
        settings=dict(SETTINGS),
    )


def test_the_constants_of_a_made_run_are_recovered() -> None:
    phone = fit_phone(made_run(), BYTES)
    assert phone.compute_s == pytest.approx(0.040)
    assert phone.waited_bytes_per_s == pytest.approx(3e9)
    assert phone.read_bytes_per_s == pytest.approx(BYTES / 1.2e-3)
    assert phone.manage_s == pytest.approx(0.002)
    assert phone.manage_s_per_read == pytest.approx(0.0005)


def test_the_engine_gives_the_measured_time_of_a_made_run_and_the_stated_line() -> None:
    run = made_run()
    phone = fit_phone(run, BYTES)
    predicted = from_reads(run, phone, geometry())
    np.testing.assert_allclose(predicted, run.wall_ms, rtol=1e-6)
    line = 1e3 * phone.token_s(reads_of(run, geometry()).astype(np.float64), BYTES)
    np.testing.assert_allclose(predicted, line, rtol=1e-6)


def test_overlap_only_ever_shortens_a_token_at_the_same_rate() -> None:
    run = made_run()
    run.io_ms[:] = 4 * run.stall_ms  # reading takes as long as waiting
    phone = fit_phone(run, BYTES)
    serial, overlapped = (from_reads(run, phone, geometry(), overlap) for overlap in (False, True))
    assert (overlapped <= serial + 1e-3).all()
    assert overlapped.mean() < serial.mean()


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_stated_misses_are_what_a_replay_misses(top_k: int) -> None:
    sizes = geometry(layers=5, experts=8 * top_k, top_k=top_k)
    misses = np.random.default_rng(top_k).integers(0, 2 * top_k + 1, 200)
    trace = trace_with_misses(misses, sizes)
    assert all(len(set(ids)) == top_k for ids in trace.topk_ids.reshape(-1, top_k).tolist())
    machine = phone_machine(fit_phone(made_run(), BYTES), sizes, overlap=False)
    cache = CacheConfig(slots_per_layer=4 * top_k, start="warm")
    steps = replay_demand(trace, Lru(), cache, machine, NO_COMPUTE)
    np.testing.assert_array_equal(steps.copies, misses)


@pytest.mark.parametrize("misses", [[-1], [9], []])
def test_impossible_misses_are_refused(misses: list[int]) -> None:
    with pytest.raises(UserError, match="stated misses must be from 0 to 8"):
        trace_with_misses(np.array(misses, np.int64), geometry())


def test_run_b_is_predicted_from_run_a_alone() -> None:
    trace = random_trace(seed=2, num_layers=4, num_experts=32, top_k=2)
    trace = replace(trace, geometry=geometry())
    run_a, run_b = made_run(), made_run()
    slow = replace(run_b, wall_ms=1.1 * run_b.wall_ms)
    findings = predict_phone(trace, {"a": run_a, "b": slow})
    mean = next(
        row for row in findings.tables["wall_time_from_reads"] if (row["run"], row["statistic"]) == ("b", "mean")
    )
    assert mean["error_percent"] == pytest.approx(100 * (1 / 1.1 - 1), abs=1e-3)
    assert mean["other_run_percent"] == pytest.approx(100 * (1 / 1.1 - 1), abs=1e-3)
    assert findings.summary["wall time per token, run b, from its reads"]["correlation_per_token"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("wall_ms", "time"), "lacks the column wall_ms"),
        (("cache_mb=3000", ""), "do not say cache_mb"),
        (("1,256,", "1,x,"), "line 5: could not convert string to float: 'x'"),
        (("1,256,", "1,"), "line 5 has 9 columns; 10 are needed"),
    ],
)
def test_broken_telemetry_is_refused(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    text = (
        "# bmoe_metrics v1\n# n_layer=48 n_expert=128 n_expert_used=6\n# cache_mb=3000 io_threads=4 overlap=1 "
        "prefetch=0 n_prompt=38\n"
        "step,steps,wall_ms,io_ms,compute_ms,read_bytes,cache_hit_pct,stall_ms,mgmt_ms,majflt\n"
        "1,256,479.787,656.746,277.253,515481600,3.68,137.980,64.553,2721\n"
    )
    path = tmp_path / "telemetry.csv"
    path.write_text(text.replace(*change))
    with pytest.raises(UserError, match=words):
        read_telemetry(path)


def test_the_published_telemetry() -> None:
    """The two measured runs read the same bytes and differ by 4.7 % in the mean: the prediction is as far off."""
    if not (SHARED / "qwen-lru_a.csv").is_file():
        pytest.skip("the published files are not at ../shared/traces/big_moe_on_edge")
    findings = predict_published(PublishedConfig("big_moe_on_edge", str(SHARED)))
    reads = findings.summary["wall time per token, run b, from its reads"]
    assert reads["mean_absolute_error_percent"] < 6.0
    assert reads["correlation_per_token"] > 0.6
    repeat = findings.summary["the two measured runs, same reads"]
    assert repeat["b_over_a_percent"] == pytest.approx(4.69, abs=0.01)
    (mean,) = [
        row for row in findings.tables["wall_time_from_reads"] if (row["run"], row["statistic"]) == ("b", "mean")
    ]
    low, measured, high = (float(str(mean[name])) for name in ("low", "measured_ms", "high"))
    assert low < measured < high < 1.5 * measured
