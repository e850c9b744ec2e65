"""Which series of the corpus lie on several tiers, and why most of them cannot be set beside a simulation.

The rule looks at words, never at a rate. A series is a candidate where its runtime or its placement names storage,
where its machine has unified memory, or where two GPUs take part. It enters where at least two rows differ in nothing
but what lies where, and the source says what that is; or where another series of its machine and runtime calibrates.
"""

from __future__ import annotations

import csv
import re
from collections import Counter

from scripts.studies.tiers.published import SERIES
from sim.paths import ROOT

CORPUS = ROOT / "docs" / "validation" / "corpus"
_STORAGE = re.compile(r"\bssd\b|\bdisk\b|bigmoe|boyle|\bds4\b|slotstream|fieldfare|colibri", re.IGNORECASE)
_UNIFIED = re.compile(r"apple|strix|gb10|\bm\d (pro|max|ultra)|macbook|mac mini", re.IGNORECASE)
_TWO_GPUS = re.compile(r"\b2 gpu|\b2x |tp2|two gpu", re.IGNORECASE)

ALONE = "one row, and no other series of its machine and runtime calibrates"
SPECULATES = "speculation, or drafts that are not said to be off"
PAGE_CACHE = "the operating system's page cache serves its reads"
NOT_STATED = "what lies where is not stated"
OTHER_AXIS = "its rows differ in context, batch, build, text or governor, not in what lies where"
NO_RATE = "hit rates without tokens per second"
CONTRADICTS = "second hand, or in contradiction with itself"
BOTH_AT_ONCE = "both GPUs, or more than two, compute one layer or a share of the experts each"
PROMPT = "the rate includes the prompt"
NO_MACHINE = "its machine is not stated"
SEVERAL = "several settings in one row, of which more memory is slower by the page cache"

LEFT_OUT = {
    ALONE: (
        "colibri120_9950x3d2_5090", "colibri104_epyc7443", "colibri680_5950x_7900xtx",
        "colibri999_ai365", "colibri1070_5800x", "colibri1119_5950x", "colibri1183_14900k_3090",
        "web07_resident.r6", "web07_resident.r8", "web18_flashnext_streaming.r1", "web18_flashnext_streaming.r2",
    ),
    SPECULATES: (
        "club_glm53_ubatch", "club931", "club1229", "colibri8_mtp", "colibri_epyc9654es", "colibri12_hx370",
        "colibri4_m5max", "colibri107_m4pro48", "colibri39_395_optane", "colibri101_9800x3d", "colibri113_12600k",
        "colibri1379_e64", "colibri1380_arm", "dsv4_sweep_1001_mtp", "ninfer102_mtp", "r9700_e2e", "r9700_mtp",
        "colibri2_270k",
    ),
    PAGE_CACHE: (
        "tf_80", "tf_76", "tf_94", "tf_64", "tf_131", "tf_69", "tf_139", "tf_95", "tf_23_ext", "tf_101", "tf_97",
        "web17_turbofieldfare_m5pro.r1", "web17_turbofieldfare_m5pro.r2", "web17_turbofieldfare_m5pro.r3",
        "colibri_m4pro24_olmoe",
    ),
    SEVERAL: ("web20_colibri_ds4.r4",),
    NOT_STATED: (
        "club1133", "club1140", "club1124", "club1130", "kt_coder_next_9355", "kt_m21_9355", "kt_m21_8488c",
        "web08_kt_avx2_5090.r5", "web08_kt_avx2_5090.r6", "colibri1154_epyc7282",
    ),
    OTHER_AXIS: (
        "halo14_ctx", "r9700_batch_e2e", "colibri949_m3_16", "colibri124_395", "colibri128_185h", "colibri1173_4800h",
    ),
    NO_RATE: ("r9700_budget_lru", "r9700_budget_static", "r9700_batch"),
    CONTRADICTS: ("colibri1502_strixhalo", "nalexand562"),
    BOTH_AT_ONCE: ("dsv4_sweep_1002",),
    PROMPT: ("dsv4_sweep_1001",),
    NO_MACHINE: ("olmoe_tier",),
}  # fmt: skip
"""Series of corpus.csv by the first reason that keeps them out."""


def candidates() -> dict[str, int]:
    """Rows of each series of the corpus that the rule looks at."""
    with (CORPUS / "machines.csv").open(newline="") as file:
        machines = {row["machine_id"]: row for row in csv.DictReader(file)}
    found: Counter[str] = Counter()
    with (CORPUS / "corpus.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            machine = machines[row["machine_id"]]
            said = f"{row['runtime']} {row['placement_kind']} {row['placement_value']}"
            unified = machine["ram_type"] == "unified" or _UNIFIED.search(machine["gpu"])
            two = machine["gpu_count"].startswith(("2", "1 or 2")) or _TWO_GPUS.search(f"{said} {machine['gpu']}")
            found[row["series_id"]] += bool(_STORAGE.search(said) or unified or two)
    return {name: count for name, count in found.items() if count}


def counts() -> list[tuple[str, int, int]]:
    """(reason, series, rows) left out, the most first."""
    rows = candidates()
    table = [(reason, len(names), sum(rows[name] for name in names)) for reason, names in LEFT_OUT.items()]
    return sorted(table, key=lambda line: (-line[1], line[0]))


def used() -> tuple[str, ...]:
    """Series of corpus.csv whose rows stand in the study."""
    return tuple(name for series in SERIES for name in series.rows)
