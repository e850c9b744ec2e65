"""Prints the tables of OD-MoE (arXiv 2512.03927) as published and simulated: python -m scripts.studies.systems.od_moe

  python -m scripts.studies.systems.od_moe           the tables (some two minutes)
  python -m scripts.studies.systems.od_moe --fit     the FITTED constants of conf/system/od_moe.yaml, found anew

A row marked FITTED gave its number to one constant and proves nothing; all others are predictions. Everything is
SIMULATED. The paper's text, as far as it is known here, does not state the length of the ablation's answers (512 is
taken, the longest of its recall measurements) nor the arrangement of a prompt's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from scipy.optimize import brentq, fsolve

from scripts.command_line import parser_of, print_table, run
from sim.paths import CONF
from sim.report.system_runs import CLAIMS, Claim
from sim.systems.od_moe.config import OdMoe, system_from_config
from sim.systems.od_moe.requests import requests, serve
from sim.systems.od_moe.run import metrics
from sim.systems.od_moe.times import all_gpu_s, sizes, tabulate

CLAIM = {claim.name.split(", ", 1)[-1].removeprefix("tokens/s, "): claim for claim in CLAIMS["od_moe"]}
"""Published figures by name: token aligned, ...; 16 in, 64 out, ..."""
ABLATION, DECODE = (
    {name: claim for name, claim in CLAIM.items() if claim.name.startswith(kind)} for kind in ("ablation", "decode")
)
BASELINES = {"Mixtral-Offloading": 2.24, "MoE-Infinity": 0.69, "HOBBIT": 0.79, "AdapMoE": 3.13, "llama.cpp": 0.82}
SHORT: dict[str, Any] = {"prompt_tokens": 64, "new_tokens": 257}
ALONE = {"token_period": 0, "kv_period": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"shadow in {precision}": {"precision": precision} for precision in ("fp16", "int8", "nf4")},
    **{f"KV aligned every {period} tokens": {"kv_period": period} for period in (2, 4, 8)},
    **{f"tokens aligned every {period}": {"token_period": period} for period in (2, 4, 8)},
    "RTX 3080 workers, T1 KV1": {"worker_memory_bytes_per_s": 760.3e9},
    "RTX 3080 workers, T1 KV4": {"worker_memory_bytes_per_s": 760.3e9, "kv_period": 4},
    "wrong loads finished first": {"abort_wrong_load": False},
    "no misprediction": {"fixed_recall": 1.0},
    "no misprediction, known at once": {"prediction": "perfect"},
    "no alignment, 256 tokens": ALONE,
    **{
        f"demo model's recall, {precision}, {word}": {"recall": "measured", "precision": precision} | changes
        for precision in ("int8", "int4")
        for word, changes in (("aligned", {}), ("alone", ALONE))
    },
}
"""What the paper says less exactly, or not at all."""
VARIANT_CLAIMS = {
    "RTX 3080 workers, T1 KV4": (3.0, "same host link assumed"),
    "no alignment, 256 tokens": (ABLATION["no alignment"].value, "shorter answers"),
}
Row = dict[str, object]


def row(name: str, published: Any, simulated: float, note: str = "") -> Row:
    """A published number beside ours; `note`: FITTED, or what the row assumes."""
    theirs, error = "", ""
    if published is not None:
        theirs, error = f"{published:.3f}", f"{100 * (simulated / published - 1):+.1f} %"
    return {"": name, "published": theirs, "simulated": f"{simulated:.3f}", "error": error, "note": note}


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


def decode_rates(system: OdMoe, claims: dict[str, Claim]) -> Iterator[Row]:
    """Decode rates with the settings that they were published for."""
    for name, claim in claims.items():
        yield row(name, claim.value, rate(system, **claim.settings), claim.note)


def table_2(system: OdMoe) -> Iterator[Row]:
    """Decode rate by setting, mean rates and TTFT, and the deployment that keeps everything on GPUs."""
    yield from decode_rates(system, DECODE)
    ours = simulated(system)
    serial = simulated(system, overlap_prefill=False)
    yield row("all experts on GPUs", 4.89, ours["all_gpu.tokens_per_s"], "FITTED")
    yield row("share of all on GPUs", 0.755, ours["tokens_per_s"] / ours["all_gpu.tokens_per_s"])
    for found, note in ((ours, "loads, messages and arithmetic overlap"), (serial, "if nothing overlaps")):
        yield row("TTFT, ms", 2244, 1e3 * found["ttft_s.mean"], note)
        yield row("output", 3.37, found["output_tokens_per_s"], note)
    for name, published in BASELINES.items():
        ratios = 3.69 / published, ours["tokens_per_s"] / published
        yield row(f"times faster than {name}", *ratios, "their rate as published")


def memory(system: OdMoe) -> Iterator[Row]:
    """GPU memory in GB (10^9 bytes)."""
    ours = simulated(system, prompt_tokens=128, new_tokens=256)
    for name, published in (("main", 7.0), ("shadow", 45.0), ("workers", 8.0)):
        yield row(name, published, ours[f"gpu_memory_bytes.{name}"] / 1e9)
    yield row("all nodes", 60.0, ours["gpu_memory_bytes"] / 1e9)
    yield row("all experts on GPUs", 180.0, ours["all_gpu.gpu_memory_bytes"] / 1e9)


def variants(system: OdMoe) -> Iterator[Row]:
    """What the paper says less exactly, or not at all."""
    for name, changes in VARIANTS.items():
        published, note = VARIANT_CLAIMS.get(name, (None, ""))
        yield row(name, published, rate(system, **SHORT | changes), note)
    for link in (20e9, 23e9, 29e9):
        yield row(f"link of {link / 1e9:.0f} GB/s, host refitted", 3.616, rate(refitted(system, link), **SHORT))


def refitted(system: OdMoe, link_bytes_per_s: float) -> OdMoe:
    """The same system with another host link, its host time fitted again (not below zero)."""
    changed = replace(system, link_bytes_per_s=link_bytes_per_s)
    return replace(changed, host_s_per_layer=fitted_host_s(changed))


def fitted_host_s(system: OdMoe) -> float:
    """Host time per layer that gives the published rate when experts are loaded after routing; at least 0."""
    bare = replace(system, host_s_per_layer=0.0, prediction="none", prompt_tokens=64, new_tokens=65)
    published: Any = ABLATION["load after routing"].value
    missing_s = 1 / published - 1 / rate(bare)
    return max(0.0, float(missing_s) / tabulate(bare, sizes(bare, None)).num_layers)


def fitted_shadow_host_s(system: OdMoe) -> float:
    """Host time per layer that gives the published rate of the deployment on eight GPUs."""
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
    for name, title in (("recall_limit_token", "token aligned"), ("recall_limit_kv", "KV aligned")):

        def missed(value: float, name: str = name, claim: Any = ABLATION[title]) -> float:
            return rate(with_value(system, name, value), **claim.settings) - float(claim.value)

        yield of(name, float(brentq(missed, 0.5, system.aligned_recall, xtol=1e-3)))


def with_value(system: OdMoe, name: str, value: float) -> OdMoe:
    """The system with one figure changed."""
    changes: dict[str, Any] = {name: value}
    return replace(system, **changes)


TABLES: dict[str, Callable[[OdMoe], Iterator[Row]]] = {
    "Ablation of the prediction, decode tokens/s": lambda system: decode_rates(system, ABLATION),
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
        print_table(title, rows(system))


if __name__ == "__main__":
    run(main)
