"""Prints published gains of drafts beside simulated ones: python -m scripts.studies.speculation [--out FOLDER]

Writes speculation.md to FOLDER (default docs/results). Each row is a published pair of runs, with drafts and without,
and the words of `run` that stand for it; times are SIMULATED under a SYNTHETIC stand-in for the routing
(trace=stand_in). What is compared is the sign of each pair and the order within a series of them. Two routings stand in
for that of rejected drafts. About a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from scripts.command_line import parser_of, run
from sim.assembly.build import build
from sim.assembly.compose import compose_run
from sim.metrics.step_table import StepTable
from sim.paths import ROOT
from sim.run.beside_plain import beside_plain
from traces.whole_file import write_whole

RESULTS = ROOT / "docs" / "results"
REQUESTS = 2
ROUTINGS = ("recorded", "other")
"""Of rejected drafts: `speculate.rejected`."""
DISK = "hardware=rtx4090 hardware.link_bytes_per_s=3e9 runtime=llama_cpp model=glm_5 model.weight_bits=4.25 policy=lru"
GPUS = "hardware=rtx5090 hardware.cpu_memory_bytes_per_s=42.42e9 runtime=llama_cpp model=deepseek_v4_flash"
ON_CPU = "speculate.draft_bytes=45.7e9"
"""An MTP layer on the CPU: the 1.35 GB that one of DeepSeek-V4-Flash reads with its head and top 6 experts, times what
the GPU's memory is faster than the CPU's (33.8)."""
HEAD = """# Does drafting pay?

Published pairs of runs, with drafts of an MTP layer and without, beside simulated ones; made by
`python -m scripts.studies.speculation`. Everything simulated is SIMULATED under a SYNTHETIC stand-in for the routing
(`trace=stand_in`, {requests} requests), on machines that stand in for those that were measured. So **the sign and the
order are compared, not the value**: above 1 drafting gains. What no trace holds is the routing of rejected drafts:
*recorded* takes that of the text's own token, whose experts the next step wants anyway, *other* that of another token
of the request, whose experts are as good as wasted (`speculate.rejected`); the truth lies between.
"""
NOTES = """Columns from `step / plain step` on are of *other*, and beside no drafts. `none`: even drafts that are all
accepted lose. The last five rows compare with fewer drafts, not with none.

**Where the sign is missed.** A second draft after one left an RTX PRO 6000 as fast as it was, and makes it 6 % slower
here; the .55 for a draft rests on two drafts in the measured mix. On the M3 Ultra a step of two rows takes 2.2 times a
plain one, although two rows want at most twice the experts and share what is no expert: by its author's account kernels
that read the union once are missing, and no figure of a runtime file says so. The union alone explains what stands in
the table. Five rows of Qwen3.8-Flash-Next want 31.4 distinct experts by its authors' count and 42 of the stand-in, so
that a fourth draft looks dearer here than it was."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A published pair; ``published``: speed with drafts over speed without, or with fewer."""

    name: str
    published: float
    words: str
    source: str
    series: str = ""
    """Pairs of one series were measured by the same hands on one machine: their order is compared."""
    than: str = ""
    """What the speed of the other run is that of, where it drafts too; without: the same run without drafts."""


FLASH_SIZES = "model=qwen3_next_80b_a3b model.expert_ffn=796 model.weight_bits=4.5 model.other_bits=8"
FLASH = (
    f"{FLASH_SIZES} hardware=rtx_pro6000_epyc9175f runtime=cuda_graphs policy=all_resident speculate.acceptance=0.55"
)
RADEON = (
    f"{FLASH_SIZES} hardware=rtx4090 hardware.gpu_memory_bytes_per_s=1280e9 hardware.gpu_flops_per_s=190e12 "
    "hardware.link_bytes_per_s=28.4e9 runtime=cuda_graphs policy=lru cache.fraction=0.497 cache.start=warm"
)
SWEEP, SSD, RESIDENT, SLOTS = "DeepSeek-V4-Flash by GPUs", "GLM-5.2 from disk", "resident by drafts", "slots by text"
PAIRS = (
    Pair(
        "resident on six GPUs", 73.7197 / 43.3322,
        f"{GPUS} policy=all_resident speculate.tokens=1 speculate.acceptance=0.69",
        "JustVugg/colibri, dsv4-cpu-offload-2026-10-01: DeepSeek-V4-Flash on six RTX 5090, 73.7 against 43.3 tokens/s; "
        "231 of 337 drafts accepted. One draft per step is INFERRED: 568 tokens are nine answers of 64", SWEEP,
    ),
    Pair(
        "resident on five GPUs, MTP layer on the CPU", 13.2518 / 43.6869,
        f"{GPUS} policy=all_resident speculate.tokens=1 speculate.acceptance=0.69 {ON_CPU}",
        "the same page, five GPUs, drafts by a layer on the CPU: 13.3 against 43.7 tokens/s; its CPU reads 42.4 GB/s "
        "of experts, the bytes of a draft are scaled to that", SWEEP,
    ),
    Pair(
        "8 of 43 layers on the CPU, MTP layer too", 3.5954 / 4.8151,
        f"{GPUS} policy=llama_cpp cache.fraction=0.814 speculate.tokens=1 speculate.acceptance=0.69 {ON_CPU}",
        "the same page, four GPUs: 3.60 against 4.82 tokens/s", SWEEP,
    ),
    Pair(
        "17 of 43 layers on the CPU, MTP layer too", 2.0 / 2.3903,
        f"{GPUS} policy=llama_cpp cache.fraction=0.605 speculate.tokens=1 speculate.acceptance=0.71 {ON_CPU}",
        "the same page, three GPUs: 2.00 against 2.39 tokens/s; 236 of 331 drafts accepted", SWEEP,
    ),
    Pair(
        "26 of 43 layers on the CPU, MTP layer too", 1.5345 / 1.5708,
        f"{GPUS} policy=llama_cpp cache.fraction=0.4 speculate.tokens=1 speculate.acceptance=0.69 {ON_CPU}",
        "the same page, two GPUs: 1.53 against 1.57 tokens/s", SWEEP,
    ),
    Pair(
        "35 of 43 layers on the CPU, MTP layer too", 1.0672 / 1.2032,
        f"{GPUS} policy=llama_cpp cache.fraction=0.186 speculate.tokens=1 speculate.acceptance=0.68 {ON_CPU}",
        "the same page, one GPU: 1.07 against 1.20 tokens/s; 233 of 342 drafts accepted", SWEEP,
    ),
    Pair(
        "experts from disk, drafts that fit", 0.87,
        f"{DISK} cache.fraction=0.05 speculate.tokens=3 speculate.acceptance=0.79",
        "JustVugg/colibri issue 8: GLM-5.2 in int4, about 1.0 tokens/s without drafts, .87 with; 2.76 tokens per step, "
        "from which three drafts and .79 for each follow; the disk's rate is not stated, 3 GB/s is ESTIMATED", SSD,
    ),
    Pair(
        "experts from disk, prose", 0.63,
        f"{DISK} cache.fraction=0.05 speculate.tokens=3 speculate.acceptance=0.60",
        "the same thread: .63 tokens/s, 2.17 tokens per step, 15 % hits", SSD,
    ),
    Pair(
        "resident in unified memory, one draft", 16.05 / 19.7,
        "hardware=rtx4090 hardware.gpu_memory_bytes_per_s=819e9 hardware.gpu_flops_per_s=57e12 runtime=ideal "
        "model=glm_5 model.weight_bits=4.25 model.other_bits=4.25 policy=all_resident speculate.tokens=1 "
        "speculate.acceptance=0.86",
        "jundot/omlx issue 2077: GLM-5.2 in mxfp4 on an M3 Ultra with 512 GB: a step of two rows takes 112 ms, of one "
        "51 ms (2.2 times), 15.7 to 16.4 tokens/s against 19.7 with 80 to 92 % accepted. Its experts are all resident",
    ),
    Pair(
        "resident, two drafts after one", 163.61 / 162.89,
        f"{FLASH} speculate.tokens=2", "Neroued/ninfer issue 102: Qwen3.8-Flash-Next on an RTX PRO 6000, all resident, "
        "162.89, 163.61 and 148.86 tokens/s with one, two and three drafts; 736 of 1713 drafts accepted, which is .55 "
        "for each if two were made (INFERRED). Sizes of Qwen3-Next-80B-A3B with wider experts stand in", RESIDENT,
        f"{FLASH} speculate.tokens=1",
    ),
    Pair(
        "resident, three drafts after one", 148.86 / 162.89, f"{FLASH} speculate.tokens=3", "the same thread", RESIDENT,
        f"{FLASH} speculate.tokens=1",
    ),
    *(
        Pair(
            f"half of the experts in LRU slots, a fourth draft, {text}", four / three,
            f"{RADEON} speculate.tokens=4 speculate.acceptance={chance}",
            f"davetha/r9700-lru-expert-cache: Qwen3.8-Flash-Next on two Radeon R9700, 15 GB of slots each, {three} and "
            f"{four} tokens/s with three and four drafts; {share} of four accepted, which is {chance} for each "
            "(INFERRED). The rates of two such cards together, the link's is stated", SLOTS,
            f"{RADEON} speculate.tokens=3 speculate.acceptance={chance}",
        )
        for text, three, four, share, chance in (
            ("prose", 94.0, 89.4, ".429", 0.69), ("JSON", 115.7, 122.2, ".744", 0.885),
            ("code", 93.1, 105.8, ".551", 0.775),
        )
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What a run of drafts gave: speed over that without, step over plain step, distinct experts, break-even."""

    speedup: float
    ratio: float
    union: float
    break_even: float | None


def replayed(words: str, rejected: str) -> StepTable:
    """A run of drafts under a stand-in for the routing."""
    given = [*words.split(), "trace=stand_in", f"trace.requests={REQUESTS}", f"speculate.rejected={rejected}"]
    return StepTable(build(compose_run("engine=compiled", *given))).run()


def simulate(pair: Pair, rejected: str) -> Found:
    """A pair as simulated."""
    table = replayed(pair.words, rejected)
    found = table.metrics() | beside_plain(table.replay, table)
    even, speedup = found["break_even_acceptance"], float(found["speedup_over_plain"] or 0)
    if pair.than:
        other = replayed(pair.than, rejected)
        speedup /= float(beside_plain(other.replay, other)["speedup_over_plain"] or 1)
    return Found(
        speedup,
        float(found["verify_over_plain"] or 0),
        float(found["union_size"] or 0),
        None if even is None else float(even),
    )


def as_markdown(rows: list[tuple[Pair, dict[str, Found]]]) -> str:
    """The table, then what each row is."""
    head = ["published", *ROUTINGS, "step / plain step", "distinct experts", "break-even acceptance", "sign"]
    lines = [HEAD.format(requests=REQUESTS), f"| pair | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for pair, found in rows:
        even = found["other"].break_even
        cells = [f"{pair.published:.3f}", *(f"{found[name].speedup:.3f}" for name in ROUTINGS)]
        cells += [
            f"{found['other'].ratio:.2f}",
            f"{found['other'].union:.1f}",
            "none" if even is None else f"{even:.2f}",
        ]
        lines.append(f"| {pair.name} | {' | '.join(cells)} | {sign_of(pair, found)} |")
    lines += ["", "Agreement, of *sign* (gain or loss) and of *order* (which of two pairs of a series gains more):", ""]
    lines += [f"- `rejected={name}`: {'; '.join(agreement(rows, name))}" for name in ROUTINGS]
    lines += [
        "",
        NOTES,
        "",
        "## Rows",
        "",
    ]
    for pair, _ in rows:
        lines += [f"- **{pair.name}**: {pair.source}.", f"  `python -m sim run trace=stand_in {pair.words}`"]
    return "\n".join(lines) + "\n"


def sign_of(pair: Pair, found: dict[str, Found]) -> str:
    """Whether drafts gain or lose as published, under both stand-ins or one."""
    same = [(found[name].speedup > 1) == (pair.published > 1) for name in ROUTINGS]
    return (
        "as published"
        if all(same)
        else "NOT as published"
        if not any(same)
        else f"as published with {ROUTINGS[same.index(True)]}"
    )


def agreement(rows: list[tuple[Pair, dict[str, Found]]], name: str) -> list[str]:
    """What the signs and orders of a stand-in for rejected drafts have in common with the published ones."""
    alike = sum((found[name].speedup > 1) == (pair.published > 1) for pair, found in rows)
    said = [f"sign: {alike} of {len(rows)} pairs as published"]
    for series in dict.fromkeys(pair.series for pair, _ in rows if pair.series):
        values = [(pair.published, found[name].speedup) for pair, found in rows if pair.series == series]
        couples = [*combinations(values, 2)]
        same = sum((one[0] > two[0]) == (one[1] > two[1]) for one, two in couples)
        said.append(f"order of {series}: {same} of {len(couples)} couples as published")
    return said


def main(argv: list[str]) -> None:
    """Print every row, write the page."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page (default: docs/results)")
    folder = parser.parse_args(argv).out
    rows = []
    for pair in PAIRS:
        found = {name: simulate(pair, name) for name in ROUTINGS}
        rows.append((pair, found))
        print(f"{pair.name:<40}{pair.published:6.2f}", *(f"{found[name].speedup:6.2f}" for name in ROUTINGS),
              f"{found['other'].ratio:6.2f}", sign_of(pair, found), flush=True)  # fmt: skip
    for name in ROUTINGS:
        print(f"rejected={name}: {'; '.join(agreement(rows, name))}")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "speculation.md", as_markdown(rows).encode())


if __name__ == "__main__":
    run(main)
