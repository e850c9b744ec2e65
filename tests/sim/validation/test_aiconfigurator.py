"""Kernels of a wheel: read from a made one, predicted by hand; what is no such wheel is one sentence."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.validation.config import PublishedConfig
from sim.validation.published.aiconfigurator.predict import kernel_s, predict_published
from sim.validation.published.aiconfigurator.wheel import read_wheel
from traces.errors import UserError

FOLDER = "aiconfigurator_core/systems"
ROW = {
    "kernel_source": "fused", "moe_dtype": "bfloat16", "num_tokens": 1, "hidden_size": 2048, "inter_size": 768,
    "topk": 8, "num_experts": 128, "moe_tp_size": 1, "moe_ep_size": 1, "distribution": "balanced", "latency": 0.06,
}  # fmt: skip
GPU = "gpu: {mem_bw: 2000000000000, bfloat16_tc_flops: 300000000000000}\n"


def wheel(folder: Path, rows: list[dict[str, object]], system: str = GPU) -> Path:
    table = io.BytesIO()
    pd.DataFrame(rows).to_parquet(table)
    path = folder / "aiconfigurator_core-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{FOLDER}/a100_sxm.yaml", system)
        made.writestr(f"{FOLDER}/data/a100_sxm/moe/vllm/0.14.0/moe_perf.parquet", table.getvalue())
    return path


def test_a_kernel_by_hand(tmp_path: Path) -> None:
    many = ROW | {"num_tokens": 4096, "latency": 0.5}
    left_out = [ROW | {"distribution": "power_law_1.2"}, ROW | {"moe_tp_size": 2}, ROW | {"moe_dtype": "nvfp4"}]
    (kernels,) = read_wheel(wheel(tmp_path, [ROW, many, *left_out, ROW | {"kernel_source": "x_nongated"}]))
    weights = 3 * 2048 * 768
    eight = 8 * weights * 2 / 1.6e12
    all_of_them = 128 * 2 * weights * (4096 * 8 / 128) / 3e14
    assert kernel_s(kernels) == pytest.approx([eight, all_of_them], rel=1e-6)
    assert kernels.seconds == pytest.approx([6e-5, 5e-4])


def test_errors_stand_by_tokens_and_experts(tmp_path: Path) -> None:
    path = wheel(tmp_path, [ROW, ROW | {"num_tokens": 8, "num_experts": 8, "topk": 2}])
    found = predict_published(PublishedConfig(name="aiconfigurator", path=str(path)))
    assert [row["tokens"] for row in found.tables["by_tokens"]] == ["1", "8"]
    assert [row["experts"] for row in found.tables["by_experts"]] == ["1 to 16", "65 to 128"]
    assert found.summary["all kernels"]["kernels"] == 2
    assert np.isfinite(found.summary["of at most 8 tokens"]["median_error_percent"])


@pytest.mark.parametrize(
    ("rows", "system", "said"),
    [
        ([ROW | {"distribution": "power_law_1.2"}], GPU, "holds no tables of MoE kernels"),
        ([{"latency": 1.0}], GPU, "is no table of kernels"),
        ([ROW], "gpu: 3\n", "states no gpu.mem_bw"),
        ([ROW], "a: [\n", "is missing in the wheel, or broken"),
    ],
)
def test_what_is_no_such_wheel(tmp_path: Path, rows: list[dict[str, object]], system: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_wheel(wheel(tmp_path, rows, system))


def test_no_zip_and_no_path(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"cannot be read as a wheel .*pip download"):
        read_wheel(tmp_path / "a.whl")
    with pytest.raises(UserError, match=r"published.path is not set: give the wheel of aiconfigurator-core"):
        predict_published(PublishedConfig(name="aiconfigurator"))
