"""Terms beside published figures: a made kernel's constants are recovered, fitted rows are given back."""

from pathlib import Path

import numpy as np
import pytest

from sim.validation.config import PublishedConfig
from sim.validation.findings import CALIBRATION, PREDICTED
from sim.validation.published.measurements.kernel_term import (
    Kernel,
    KernelRows,
    fit_kernel,
    held_in,
    kernel_s,
    read_kernel_rows,
)
from sim.validation.published.measurements.predict import predict_published
from sim.validation.published.measurements.terms import (
    Published,
    copies_of,
    term_rows,
    token_time_by_bytes,
    token_time_by_hits,
)
from traces.errors import UserError

SHARED = Path("../shared/measurements")


def grid() -> KernelRows:
    tokens, experts = np.meshgrid([1.0, 4, 16, 64, 256, 1024, 4096], [8.0, 32, 128])
    return KernelRows(tokens.ravel(), experts.ravel(), np.zeros(tokens.size), 9_437_184, 16.0, 8)


def test_a_kernel_by_hand() -> None:
    kernel = Kernel(fixed_s=1e-6, bytes_per_s=1e12, flops_per_s=1e14)
    rows = KernelRows(np.array([1.0, 1024.0]), np.array([8.0, 8.0]), np.ones(2), 2_000_000, 16.0, 8)
    # 8 experts of 2 us each to read; 1024 tokens give 1024 pairs per expert: 2 * 1e6 weights * 1024 / 1e14 = 20.48 us.
    np.testing.assert_allclose(kernel_s(kernel, rows), [1e-6 + 8 * 2e-6, 1e-6 + 8 * 20.48e-6])


def test_the_constants_of_a_made_kernel_are_recovered() -> None:
    kernel, rows = Kernel(4e-6, 1.3e12, 2.2e14), grid()
    made = KernelRows(rows.tokens, rows.experts, kernel_s(kernel, rows), rows.size_bytes, 16.0, 8)
    kernel = fit_kernel(made.chosen(held_in(made)))
    assert kernel.fixed_s == pytest.approx(kernel.fixed_s, rel=1e-3)
    assert kernel.bytes_per_s == pytest.approx(kernel.bytes_per_s, rel=1e-4)
    assert kernel.flops_per_s == pytest.approx(kernel.flops_per_s, rel=1e-4)
    np.testing.assert_allclose(kernel_s(kernel, made), made.seconds, rtol=1e-4)


def test_every_other_number_of_tokens_is_held_in() -> None:
    assert sorted(set(grid().tokens[held_in(grid())].tolist())) == [1.0, 16.0, 256.0, 4096.0]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UserError, match="at least 3 are needed"):
        fit_kernel(grid().chosen(np.arange(21) < 2))


@pytest.mark.parametrize("text", ["tokens,time_us\n1,2\n", "tokens,activated_experts,time_us\n1,8,-3\n", ""])
def test_a_broken_kernel_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "moe.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"must hold numbers|lacks the column"):
        read_kernel_rows(path, "qwen3_30b_a3b")


def test_a_copy_is_predicted_from_a_larger_one_by_hand() -> None:
    """1 ms for 8 MB is 8 GB/s, so 1 MB takes 0.125 ms; measured were 0.130."""
    rows = [
        Published("Expertflow", "expert 3345412 B", "GPU", "H2D pinned p50", "0.130", "ms", ""),
        Published("Expertflow", "8 experts 26763296 B", "GPU", "H2D pinned p50", "1.0", "ms", ""),
    ]
    small, large = copies_of(rows)
    assert (small["use"], large["use"]) == (PREDICTED, CALIBRATION)
    assert small["model"] == pytest.approx(0.125)
    assert small["error_percent"] == pytest.approx(100 * (0.125 / 0.130 - 1))
    assert large["error_percent"] == pytest.approx(0.0, abs=1e-9)


def test_lines_through_the_extreme_runs_by_hand() -> None:
    rows = [
        Published("kekzl/imp#1374", "", "", f"decode cache {slots} slots/layer", str(rate), "tok/s", f"hit {hit}% (x)")
        for slots, rate, hit in ((10, 10.0, 40), (90, 50.0, 90), (50, 20.0, 60))
    ]
    # 100 ms at 0.6 missed, 20 ms at 0.1: 16 ms per tenth; 0.4 missed give 68 ms beside 50 ms measured.
    first, middle, last = token_time_by_hits(rows)
    assert (first["use"], middle["use"], last["use"]) == (CALIBRATION, PREDICTED, CALIBRATION)
    assert middle["model"] == pytest.approx(68.0)
    assert middle["error_percent"] == pytest.approx(36.0)
    phone = Published(
        "BigMoeOnEdge benchmarks.md", "", "", "cache 0 / 2000 / 4000 MiB", "1/2/4", "tok/s", "read 1000/500/200 MiB"
    )
    # 1000 ms at 1000 MiB, 250 ms at 200: 500 MiB give 250 + 300 * 750 / 800.
    assert token_time_by_bytes([phone])[1]["model"] == pytest.approx(531.25)


def test_absent_rows_are_named() -> None:
    rows, lacking = term_rows([])
    assert rows == []
    assert len(lacking) == 4


def test_the_published_figures() -> None:
    if not (SHARED / "offload_latency_table.csv").is_file():
        pytest.skip("the published figures are not at ../shared/measurements")
    findings = predict_published(PublishedConfig("measurements", str(SHARED)))
    assert not any("not in the table" in note for note in findings.notes)
    assert abs(findings.summary["copy, pinned"]["worst_error_percent"]) < 1.0
    assert findings.summary["kernel of an MoE block"]["count"] == 26
    assert findings.summary["kernel of an MoE block"]["mean_absolute_error_percent"] < 12.0
    for row in findings.tables["terms"]:
        if row["use"] == CALIBRATION and row["term"] != "kernel of an MoE block":
            assert abs(float(row["error_percent"])) < 0.1  # type: ignore[arg-type]
