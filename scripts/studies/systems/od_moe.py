"""Prints the tables of OD-MoE (arXiv 2512.03927) as published and simulated: python -m scripts.studies.systems.od_moe

  python -m scripts.studies.systems.od_moe           the tables (some two minutes)
  python -m scripts.studies.systems.od_moe --fit     the FITTED constants of conf/system/od_moe.yaml, found anew

A row marked `fitted` gave its number to one constant and proves nothing; all others are predictions. Everything is
SIMULATED. The paper's text, as far as it is known here, does not state the length of the ablation's answers (512 is
taken, the longest of its recall measurements) nor the arrangement of a prompt's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from scipy.optimize import brentq, fsolve

from scripts.command_line import parser_of, run
from sim.paths import CONF
from sim.systems.od_moe.config import OdMoe, system_from_config
from sim.systems.od_moe.requests import requests, serve
from sim.systems.od_moe.run import metrics
from sim.systems.od_moe.times import sizes, tabulate

ABLATION_LENGTHS: dict[str, Any] = {"prompt_tokens": 64, "new_tokens": 513}
GB = 1e9

# name -> (published tok/s, what is changed, fitted)
ABLATION: dict[str, tuple[float, dict[str, Any], bool]] = {
    "token and KV aligned": (3.616, {}, False),
    "token aligned": (3.453, {"kv_period": 0}, True),
    "KV aligned": (2.445, {"token_period": 0}, True),
    "no alignment": (1.185, {"token_period": 0, "kv_period": 0}, False),
    "random prefetch": (1.046, {"prediction": "random"}, False),
    "load after routing": (1.032, {"prediction": "none"}, True),
}
DECODE = {(16, 64): 3.67, (16, 256): 3.65, (128, 64): 3.74, (128, 256): 3.71}
BASELINES = {"Mixtral-Offloading": 2.24, "MoE-Infinity": 0.69, "HOBBIT": 0.79, "AdapMoE": 3.13, "llama.cpp": 0.82}


@dataclass(frozen=True, slots=True)
class Row:
    """One published number beside ours; `note`: fitted, or what the row assumes."""

    name: str
    published: float | None
    simulated: float
    note: str = ""


def configured() -> OdMoe:
    """The system as its yaml has it."""
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "system" / "od_moe.yaml"))
    return system_from_config(config)[0]


def simulated(system: OdMoe, **changes: Any) -> dict[str, Any]:
    """Metrics of one configuration."""
    system = replace(system, **changes)
    model = sizes(system, None)
    times = tabulate(system, model)
    served = [serve(system, times, request, i) for i, request in enumerate(requests(system, times, None))]
    return metrics(system, times, model, served)


def rate(system: OdMoe, **changes: Any) -> float:
    """Decode tokens per second."""
    return float(simulated(system, **changes)["tokens_per_s"])


def ablation(system: OdMoe) -> Iterator[Row]:
    """Decode rate with parts of the prediction taken away."""
    for name, (published, changes, fitted) in ABLATION.items():
        yield Row(name, published, rate(system, **ABLATION_LENGTHS, **changes), "fitted" if fitted else "")


def table_2(system: OdMoe) -> Iterator[Row]:
    """Decode rate by setting, mean rates and TTFT, and the deployment that keeps everything on GPUs."""
    for (prompt, answer), published in DECODE.items():
        yield Row(
            f"decode, {prompt} in, {answer} out", published, rate(system, prompt_tokens=prompt, new_tokens=answer)
        )
    ours = simulated(system)
    serial = simulated(system, overlap_prefill=False)
    yield Row("decode, mean", 3.69, ours["tokens_per_s"])
    yield Row("all experts on GPUs", 4.89, ours["all_gpu.tokens_per_s"], "fitted")
    yield Row("share of all on GPUs", 0.755, ours["tokens_per_s"] / ours["all_gpu.tokens_per_s"])
    yield Row("TTFT, ms", 2244, 1e3 * ours["ttft_s.mean"], "loads, messages and arithmetic overlap")
    yield Row("TTFT, ms", 2244, 1e3 * serial["ttft_s.mean"], "if nothing overlaps")
    yield Row("output", 3.37, ours["output_tokens_per_s"], "loads, messages and arithmetic overlap")
    yield Row("output", 3.37, serial["output_tokens_per_s"], "if nothing overlaps")
    for name, published in BASELINES.items():
        yield Row(
            f"times faster than {name}", 3.69 / published, ours["tokens_per_s"] / published, "their rate as published"
        )


def memory(system: OdMoe) -> Iterator[Row]:
    """GPU memory in GB (10^9 bytes)."""
    ours = simulated(system, prompt_tokens=128, new_tokens=256)
    for name, published in (("main", 7.0), ("shadow", 45.0), ("workers", 8.0)):
        yield Row(name, published, ours[f"gpu_memory_bytes.{name}"] / GB)
    yield Row("all nodes", 60.0, ours["gpu_memory_bytes"] / GB)
    yield Row("all experts on GPUs", 180.0, ours["all_gpu.gpu_memory_bytes"] / GB)


def variants(system: OdMoe) -> Iterator[Row]:
    """What the paper says less exactly, or not at all."""
    for precision in ("fp16", "int8", "nf4"):
        yield Row(f"shadow in {precision}", None, rate(system, precision=precision, prompt_tokens=64, new_tokens=257))
    lengths: dict[str, Any] = {"prompt_tokens": 64, "new_tokens": 257}
    for period in (2, 4, 8):
        yield Row(f"KV aligned every {period} tokens", None, rate(system, kv_period=period, **lengths))
        yield Row(f"tokens aligned every {period}", None, rate(system, token_period=period, **lengths))
    slower = replace(system, worker_memory_bytes_per_s=760.3e9)
    yield Row("RTX 3080 workers, T1 KV1", None, rate(slower, **lengths))
    yield Row("RTX 3080 workers, T1 KV4", 3.0, rate(slower, kv_period=4, **lengths), "same host link assumed")
    yield Row("wrong loads finished first", None, rate(system, abort_wrong_load=False, **lengths))
    yield Row("no misprediction", None, rate(system, fixed_recall=1.0, **lengths))
    yield Row("no misprediction, known at once", None, rate(system, prediction="perfect", **lengths))
    yield Row(
        "no alignment, 256 tokens", 1.185, rate(system, token_period=0, kv_period=0, **lengths), "shorter answers"
    )
    for precision in ("int8", "int4"):
        measured = replace(system, recall="measured", precision=precision, **lengths)
        yield Row(f"demo model's recall, {precision}, aligned", None, rate(measured))
        yield Row(f"demo model's recall, {precision}, alone", None, rate(measured, token_period=0, kv_period=0))
    for link in (20e9, 23e9, 29e9):
        yield Row(f"link of {link / 1e9:.0f} GB/s, host refitted", 3.616, rate(refitted(system, link), **lengths))


def refitted(system: OdMoe, link_bytes_per_s: float) -> OdMoe:
    """The same system with another host link, its host time fitted again (not below zero)."""
    changed = replace(system, link_bytes_per_s=link_bytes_per_s)
    return replace(changed, host_s_per_layer=fitted_host_s(changed))


def fitted_host_s(system: OdMoe) -> float:
    """Host time per layer that gives the published rate when experts are loaded after routing; at least 0."""
    bare = replace(system, host_s_per_layer=0.0, prediction="none", prompt_tokens=64, new_tokens=65)
    missing_s = 1 / ABLATION["load after routing"][0] - 1 / rate(bare)
    return max(0.0, missing_s / tabulate(bare, sizes(bare, None)).num_layers)


def fitted_shadow_host_s(system: OdMoe) -> float:
    """Host time per layer that gives the published rate of the deployment on eight GPUs."""
    from sim.systems.od_moe.times import all_gpu_s

    model = sizes(system, None)
    return (1 / 4.89 - all_gpu_s(replace(system, shadow_host_s_per_layer=0.0), model)) / model.num_layers


def fitted_fall(aligned: float) -> tuple[float, float]:
    """(limit, decay) of unaligned recall: .30 at token 256, .45 on average over 256 tokens."""

    def missed(x: Any) -> list[float]:
        fall = np.exp(-np.arange(256) / x[1])
        return [x[0] + (aligned - x[0]) * fall[-1] - 0.30, float((x[0] + (aligned - x[0]) * fall).mean()) - 0.45]

    limit, decay = fsolve(missed, [0.29, 55.0])
    return float(limit), float(decay)


def fit(system: OdMoe) -> Iterator[tuple[str, float]]:
    """The FITTED constants, each with those before it in place."""

    def of(name: str, value: float) -> tuple[str, float]:
        nonlocal system
        system = with_value(system, name, float(f"{value:.4g}"))
        return name, getattr(system, name)

    yield of("host_s_per_layer", fitted_host_s(system))
    yield of("shadow_host_s_per_layer", fitted_shadow_host_s(system))
    limit, decay = fitted_fall(system.aligned_recall)
    yield of("recall_limit_unaligned", limit)
    yield of("recall_decay_steps", decay)
    for name, row in (("recall_limit_token", "token aligned"), ("recall_limit_kv", "KV aligned")):
        published, changes, _ = ABLATION[row]

        def missed(value: float, name: str = name, published: float = published, changes: Any = changes) -> float:
            return rate(with_value(system, name, value), **ABLATION_LENGTHS, **changes) - published

        yield of(name, float(brentq(missed, 0.5, system.aligned_recall, xtol=1e-3)))


def with_value(system: OdMoe, name: str, value: float) -> OdMoe:
    """The system with one figure changed."""
    changes: dict[str, Any] = {name: value}
    return replace(system, **changes)


def show(title: str, rows: Iterator[Row]) -> None:
    """Print a table."""
    print(f"\n{title}\n{'':<36}{'published':>10}{'simulated':>11}{'error':>9}", flush=True)
    for row in rows:
        published = "" if row.published is None else f"{row.published:.3f}"
        error = "" if row.published is None else f"{100 * (row.simulated / row.published - 1):+.1f} %"
        print(f"{row.name:<36}{published:>10}{row.simulated:>11.3f}{error:>9}  {row.note}", flush=True)


TABLES: dict[str, Callable[[OdMoe], Iterator[Row]]] = {
    "Ablation of the prediction, decode tokens/s": ablation,
    "Table 2, tokens/s where not said otherwise": table_2,
    "GPU memory, GB": memory,
    "Variants, decode tokens/s": variants,
}


def main(argv: list[str]) -> None:
    """Print the tables, or the constants."""
    parser = parser_of(__doc__)
    parser.add_argument("--fit", action="store_true", help="find the FITTED constants anew")
    system = configured()
    if parser.parse_args(argv).fit:
        for name, value in fit(system):
            print(f"{name}: {value:g} (now {getattr(system, name):g})", flush=True)
        return
    times = tabulate(system, sizes(system, None))
    print(
        f"load {times.load_ns / 1e6:.2f} ms; hidden up to {times.num_groups} t_M + {times.num_groups - 1} t_W = "
        f"{times.deadline_ns / 1e6:.2f} ms (t_M {times.main_ns / 1e6:.2f}, t_W {times.worker_ns / 1e6:.2f})"
    )
    for title, rows in TABLES.items():
        show(title, rows(system))


if __name__ == "__main__":
    run(main)
