"""Reads the tables of MoE kernels out of the wheel of `aiconfigurator-core` (Apache-2.0, NVIDIA), which is a zip file.

Each `systems/data/SYSTEM/moe/FRAMEWORK/VERSION/moe_perf.parquet` holds milliseconds of the experts of one layer by
tokens, sizes and how evenly tokens fall; `systems/SYSTEM.yaml` the GPU's nominal rates. Nothing of it is installed.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from traces.errors import UserError

Vector = NDArray[np.float64]
ORIGIN = (
    "`pip download --no-deps aiconfigurator-core` fetches it (82 MB, https://github.com/ai-dynamo/aiconfigurator); "
    "nothing has to be installed"
)
WHEEL = "aiconfigurator_core-*.whl"
TABLE = re.compile(r"aiconfigurator_core/systems/data/(\w+)/moe/(\w+)/([\w.]+)/moe_perf\.parquet")
COLUMNS = (
    "kernel_source", "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size",
    "moe_ep_size", "distribution", "latency",
)  # fmt: skip
BITS = {"bfloat16": 16.0, "fp8": 8.0, "fp8_block": 8.0, "int4_wo": 4.25, "w4a16_mxfp4": 4.25}
"""Stored bits of a weight, scales included, of the formats that are read as they are; others are left out."""
ARITHMETIC = {"fp8": "fp8_tc_flops", "fp8_block": "fp8_tc_flops"}
"""Rate of a format's arithmetic in a system's file; that of bfloat16 for all others."""
MOST_BYTES = 64 * 2**20
"""Of one file in the wheel, unpacked."""
MOST_ROWS = 2_000_000


@dataclass(frozen=True, slots=True)
class Kernels:
    """Kernels of one GPU, framework and format, [n] each."""

    system: str
    framework: str
    dtype: str
    bytes_per_s: float
    flops_per_s: float
    tokens: Vector
    experts: Vector
    top_k: Vector
    expert_weights: Vector
    bits: float
    """Stored bits of a weight."""
    seconds: Vector

    def __len__(self) -> int:
        return len(self.seconds)


def read_wheel(path: Path) -> list[Kernels]:
    """All kernels that one GPU runs alone with tokens that fall evenly, so that the experts in use are known.

    ``path``: the wheel, or a folder that holds it. Raises: UserError where there is no such wheel.
    """
    if path.is_dir():
        wheels = sorted(path.glob(WHEEL))
        if not wheels:
            raise UserError(f"published.path={path} holds no {WHEEL}: the files are those of {ORIGIN}")
        path = wheels[-1]
    try:
        with zipfile.ZipFile(path) as wheel:
            found = [kernels for name in wheel.namelist() for kernels in _of_file(wheel, name)]
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"published.path={path}: cannot be read as a wheel ({error}); {ORIGIN}") from error
    if not found:
        raise UserError(f"published.path={path}: holds no tables of MoE kernels: {ORIGIN}")
    return found


def _of_file(wheel: zipfile.ZipFile, name: str) -> Iterator[Kernels]:
    match = TABLE.fullmatch(name)
    if match is None:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    gpu = _gpu(wheel, match[1])
    try:
        file = pq.ParquetFile(io.BytesIO(_bytes(wheel, name)))
        if file.metadata.num_rows > MOST_ROWS:
            raise UserError(f"{name} in the wheel has {file.metadata.num_rows} rows: at most {MOST_ROWS} are read")
        table = file.read(columns=list(COLUMNS))
        columns: dict[str, NDArray[Any]] = {column: table[column].to_numpy() for column in COLUMNS}
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{name} in the wheel is no table of kernels: {error}") from error
    sources = columns["kernel_source"].astype(str)
    alone = (columns["moe_tp_size"] == 1) & (columns["moe_ep_size"] == 1) & (columns["distribution"] == "balanced")
    alone &= (np.char.find(sources, "nongated") < 0) & (columns["latency"] > 0)
    for dtype, bits in BITS.items():
        chosen = alone & (columns["moe_dtype"] == dtype)
        flops = gpu.get(ARITHMETIC.get(dtype, "bfloat16_tc_flops"))
        if not chosen.any() or not flops:
            continue
        number = {column: columns[column][chosen].astype(np.float64) for column in COLUMNS[2:7] + COLUMNS[-1:]}
        weights = 3.0 * number["hidden_size"] * number["inter_size"]
        yield Kernels(
            match[1], f"{match[2]} {match[3]}", dtype, float(gpu["mem_bw"]), float(flops), number["num_tokens"],
            number["num_experts"], number["topk"], weights, bits, number["latency"] / 1e3,
        )  # fmt: skip


def _gpu(wheel: zipfile.ZipFile, system: str) -> dict[str, float]:
    name = f"aiconfigurator_core/systems/{system}.yaml"
    try:
        content = yaml.safe_load(_bytes(wheel, name))
    except (KeyError, yaml.YAMLError) as error:
        raise UserError(f"{name} is missing in the wheel, or broken: {error}") from error
    gpu = content.get("gpu") if isinstance(content, dict) else None
    if not isinstance(gpu, dict) or not isinstance(gpu.get("mem_bw"), int | float):
        raise UserError(f"{name} in the wheel states no gpu.mem_bw")
    return {key: value for key, value in gpu.items() if isinstance(value, int | float)}


def _bytes(wheel: zipfile.ZipFile, name: str) -> bytes:
    size = wheel.getinfo(name).file_size
    if size > MOST_BYTES:
        raise UserError(f"{name} in the wheel has {size} bytes: at most {MOST_BYTES} are read")
    return wheel.read(name)
