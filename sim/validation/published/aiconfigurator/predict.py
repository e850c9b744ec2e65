"""The time model's term for the experts of a layer beside kernel times of many GPUs: by tokens, experts and GPU.

The term is that of `sim.machine.durations.compute_s`, summed over the experts in use: bytes over the share of memory
bandwidth that runtimes reach, or arithmetic over the nominal rate, whichever is longer. No figure of these kernels has
a part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sim.machine.runtime import load_runtime
from sim.validation.config import PublishedConfig
from sim.validation.findings import Findings, Point, Row
from sim.validation.published.aiconfigurator.wheel import ORIGIN, Kernels, Vector, read_wheel
from traces.errors import UserError

RUNTIME = "cuda_graphs"
"""Whose share of memory bandwidth counts; launches, which it states by layer, are not part of the term."""
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
EXPERTS = ((1, 16), (17, 64), (65, 128), (129, 256), (257, 100_000))
NOT_DRAWN = {"b300_sxm", "gb200", "gb300"}
"""Lie on b200_sxm in the figure."""
DECODE = 8
"""Most tokens of what is called decode here."""


def predict_published(config: PublishedConfig) -> Findings:
    """Predict every kernel of the wheel at ``published.path``. Raises: UserError where it is missing or broken."""
    if config.path is None:
        raise UserError(f"published.path is not set: give the wheel of aiconfigurator-core; {ORIGIN}")
    kernels = read_wheel(Path(config.path).expanduser())
    ratios = [np.log(kernel_s(one) / one.seconds) for one in kernels]
    tables = {
        "by_tokens": grouped(kernels, ratios, "tokens", [(str(n), _is_tokens(n)) for n in TOKENS]),
        "by_experts": grouped(
            kernels, ratios, "experts", [(f"{low} to {high}", _in_experts(low, high)) for low, high in EXPERTS]
        ),
        "by_gpu": of_group(kernels, ratios, "gpu", [one.system for one in kernels]),
        "by_framework": of_group(kernels, ratios, "framework", [one.framework.split()[0] for one in kernels]),
        "by_format": of_group(kernels, ratios, "format", [one.dtype for one in kernels]),
    }
    few = [ratio[one.tokens <= DECODE] for one, ratio in zip(kernels, ratios, strict=True)]
    charged = [np.log((kernel_s(one) + launch_s()) / one.seconds)[one.tokens <= DECODE] for one in kernels]
    summary = {
        "all kernels": sizes(np.concatenate(ratios)),
        f"of at most {DECODE} tokens": sizes(np.concatenate(few)),
        f"of at most {DECODE} tokens, with what a layer is charged for launches": sizes(np.concatenate(charged)),
    }
    points = points_of(kernels)
    title = "Kernels of MoE blocks, measured beside the time model's term"
    return Findings("aiconfigurator", title, "ms", dict(summary), tables, notes_for(kernels), points, log_axes=True)


def kernel_s(kernels: Kernels) -> Vector:
    """[n] seconds: of every expert in use the longer of its bytes and its arithmetic."""
    pairs = kernels.tokens * kernels.top_k
    used = np.minimum(kernels.experts, pairs)
    rate = load_runtime(RUNTIME).gpu_memory_share * kernels.bytes_per_s
    arithmetic = 2.0 * kernels.expert_weights * (pairs / used) / kernels.flops_per_s
    one = np.maximum(kernels.expert_weights * kernels.bits / 8 / rate, arithmetic)
    return np.asarray(used * one, np.float64)


def launch_s() -> float:
    """What a replay charges a layer for launches, those of attention among them."""
    return load_runtime(RUNTIME).graph_launch_s or 0.0


def sizes(ratios: Vector) -> Row:
    """How many, the median error with its sign and in size, and how many are within 40 %; errors in percent."""
    errors = 100 * np.expm1(ratios)
    return {
        "kernels": len(errors),
        "median_error_percent": float(np.median(errors)) if len(errors) else None,
        "median_absolute_error_percent": float(np.median(np.abs(errors))) if len(errors) else None,
        "share_within_0.4": float(np.mean(np.abs(errors) <= 40)) if len(errors) else None,
    }


def grouped(
    kernels: Sequence[Kernels], ratios: Sequence[Vector], name: str, groups: Sequence[tuple[str, Callable[..., Vector]]]
) -> list[Row]:
    """A row for each group of kernels."""
    rows: list[Row] = []
    for group, chosen in groups:
        found = np.concatenate([ratio[chosen(one)] for one, ratio in zip(kernels, ratios, strict=True)])
        if len(found):
            rows.append({name: group, **sizes(found)})
    return rows


def of_group(kernels: Sequence[Kernels], ratios: Sequence[Vector], name: str, labels: Sequence[str]) -> list[Row]:
    """A row for each label."""
    return [
        {name: label, **sizes(np.concatenate([r for r, other in zip(ratios, labels, strict=True) if other == label]))}
        for label in sorted(set(labels))
        if kernels
    ]


def points_of(kernels: Sequence[Kernels]) -> list[Point]:
    """One point for each GPU that is drawn and number of tokens: medians, in milliseconds."""
    points = []
    for system in sorted({one.system for one in kernels} - NOT_DRAWN):
        own = [one for one in kernels if one.system == system]
        tokens, seconds = (np.concatenate([getattr(one, name) for one in own]) for name in ("tokens", "seconds"))
        expected = np.concatenate([kernel_s(one) for one in own])
        for number in TOKENS:
            chosen = tokens == number
            if chosen.any():
                measured, ours = (1e3 * float(np.median(values[chosen])) for values in (seconds, expected))
                points.append(Point(system, measured, ours))
    return points


def _is_tokens(number: int) -> Callable[[Kernels], Vector]:
    return lambda kernels: np.asarray(kernels.tokens == number)


def _in_experts(low: int, high: int) -> Callable[[Kernels], Vector]:
    return lambda kernels: np.asarray((kernels.experts >= low) & (kernels.experts <= high))


def notes_for(kernels: Sequence[Kernels]) -> list[str]:
    """What a reader must know."""
    count, systems = sum(map(len, kernels)), sorted({one.system for one in kernels})
    return [
        f"{count} kernels of {len(systems)} GPUs ({', '.join(systems)}), MEASURED by NVIDIA in aiconfigurator-core "
        "(Apache-2.0, https://github.com/ai-dynamo/aiconfigurator); predicted: SIMULATED, no figure of these kernels "
        "has a part in it",
        "kept: one GPU, tokens that fall evenly over the experts, gated experts, formats that are read as stored "
        f"(bfloat16, fp8, four bits); {ORIGIN}",
        f"the figure: medians by number of tokens; without {', '.join(sorted(NOT_DRAWN))}, which lie on b200_sxm",
        "the term: of every expert in use the longer of its bytes at "
        f"{load_runtime(RUNTIME).gpu_memory_share:.2f} of memory bandwidth and its arithmetic at the nominal rate",
    ]
