"""The published series: what was measured, and how each point is simulated.

Taken from the corpus by the rule in `scripts.studies.tiers.left_out`; three caches of host memory stand beside them. Of
several cards the one of the same author's texts counts, then the one of the same model, then the one of the same family
or the nearest shape.
"""

from __future__ import annotations

from scripts.studies.tiers.series import STORAGE, Point, Protocol, Series

BOYLE = Protocol(13, 95, 32, "cold")
"""`boyle bench`: a fresh process, one sentence as prompt, 96 tokens of which the first third does not count."""
FLASH_NEXT, FLASH_NEXT_MIXED = "qwen3_8_flash_next_published", "qwen3_8_flash_next_mixed_published"
GLM = "glm_5_2_published"
PINNED = 20e9 / 21_233_664 / 75
"""Experts of a layer that colibri's PIN_GB=20 holds beside its cache of each layer."""

SERIES = (
    Series(
        "boyle_flashnext", "PyPI boyle 0.2.1 README", ("boyle_flashnext",), "Qwen3.8-Flash-Next", "4bit (111.5 GB)",
        FLASH_NEXT, "m5_max", "mlx_ssd", "mlx_ssd",
        (
            Point("88 GB, 100 %", 16.4, 1.0, calibrates=True),
            Point("64 GB, 70 %", 18.1, 0.70),
            Point("48 GB, 49 %", 18.1, 0.49),
            Point("40 GB, 38 %", 17.8, 0.38),
            Point("32 GB, 27 %", 16.5, 0.27),
            Point("24 GB, 17 %", 11.8, 0.17, calibrates=True),
        ),
        fits=("readback_s", "install_s"),
        protocol=BOYLE,
        said="its first point reads as many experts as the next two, since 95 tokens from an empty cache miss only "
        "what they never used before, and is slower; its README has 17.1 for the same setting in another table",
    ),
    Series(
        "boyle_235b", "PyPI boyle 0.2.1 README", ("boyle_235b",), "Qwen3-235B-A22B", "4bit (132 GB)",
        "qwen3_235b_a22b_published", "m5_max", "mlx_ssd", "mlx_ssd",
        # Its budget holds weights that are no experts (4.4 GB), K and V of 8192 tokens (1.6 GB) and 4 GB more, then
        # experts, of 127.6 GB; of 90 GB its anchors state .64.
        (
            Point("70 GB", 11.7, (70 - 4.4 - 1.6 - 4) / 127.6, protocol=BOYLE),
            Point("90 GB", 15.5, 0.64, calibrates=True),
        ),
        fits=("readback_s",),
        fitted_on="boyle_flashnext",
        said="only its 70 GB are of `boyle bench`; how the other speed was measured is not said",
    ),
    Series(
        "boyle_30b", "PyPI boyle 0.2.1 README", ("boyle_30b_m5",), "Qwen3-30B-A3B", "4bit (17 GB)",
        "qwen3_30b_a3b_phone", "m5_max", "mlx_ssd", "mlx_ssd",
        # Its server holds K and V of 32,768 tokens (3.2 GB) beside .9 GB of other weights and 4 GB.
        (Point("12 GB", 18.0, (12 - 0.9 - 3.2 - 4) / 16.2),),
        fitted_on="boyle_235b",
        said="of a session with an agent, not of `boyle bench`; no row of its own calibrates, the figures are those of "
        "the same model code; those of boyle_flashnext, whose constant holds its table of n-grams, are a quarter too "
        "slow",
    ),
    Series(
        "imp_1374", "github kekzl/imp pull request 1374", ("imp_qwen30_q4km",), "Qwen3-30B-A3B", "Q4_K_M",
        "qwen3_30b_a3b_phone", "rtx5090", "imp_2026_08", "lru",
        # slots hold one of the three matrices of an expert
        (
            Point("24 slots", 10.51, 24 / 3 / 128, calibrates=True, stated_hits=0.366),
            Point("73 slots", 20.99, 73 / 3 / 128, stated_hits=0.741),
            Point("146 slots", 30.51, 146 / 3 / 128, stated_hits=0.894),
            Point("244 slots", 51.86, 244 / 3 / 128, calibrates=True, stated_hits=0.962),
        ),
        fits=("pageable_bytes_per_s", "launch_s"),
        protocol=Protocol(8, 256, 0, "cold"),
        said="by its stated hits a miss costs .33, .25 and .52 ms between neighbouring points, which no constant gives",
    ),
    Series(
        "llama_cpp_27861", "github ggml-org/llama.cpp pull request 27861", (), "Qwen3.8-Flash-Next", "UD-Q4_K_XL",
        FLASH_NEXT_MIXED, "rtx3090_epyc7343", "llama_cpp_moe_cache", "llama_cpp_moe_cache",
        (Point("no cache", 18.4, 0.0, calibrates=True), Point("48 slots, 2 uploads", 24.2, 48 / 512)),
        fits=("cpu_memory_bytes_per_s",),
        host_layers=28,
        figures={"cpu_contention": 2.0, "link_contention": 2.0},
        said="two cards, layers split, which at one token run by turns: simulated as one; RAM of one channel per "
        "socket, which its author calls the bound, so an upload and the CPU halve it between them; its card is of the "
        "hits that he counts, 67 % of an LRU of 64 slots, 81 % of 128",
    ),
    Series(
        "llama_cpp_27861_6950xt", "github ggml-org/llama.cpp pull request 27861", ("web18_flashnext_streaming.r9",),
        "Qwen3.8-Flash-Next", "UD-Q2_K_XL", FLASH_NEXT_MIXED, "rtx3090_epyc7343", "llama_cpp_moe_cache",
        "llama_cpp_moe_cache",
        (
            Point("no cache", 8.2, 0.0, calibrates=True),
            Point("128 slots", 12.5, 128 / 512, stated_hits=0.85),
            Point("256 slots", 17.6, 256 / 512, stated_hits=0.92),
            Point("280 slots", 19.0, 280 / 512, calibrates=True, stated_hits=0.93),
        ),
        fits=("cpu_memory_bytes_per_s", "graph_launch_s"),
        figures={"gpu_memory_bytes_per_s": 576e9, "link_bytes_per_s": 6.5e9},
        said="two RX 6950 XT on four lanes each, layers split, which at one token run by turns: simulated as one; of "
        "the two cards of the model the one whose hits are nearest to those stated at 280 slots",
    ),
    Series(
        "llama_cpp_27742", "github ggml-org/llama.cpp pull request 27742, GlidLov", ("lcpp27742_glidlov",),
        "Qwen3.8-Flash-Next", "UD-Q4_K_XL", FLASH_NEXT, "rtx3090_epyc7343", "llama_cpp", "llama_cpp",
        (
            Point("one GPU, all layers on the CPU", 23.9, 0.0, calibrates=True),
            Point("one GPU, 38 layers on the CPU", 25.9, 0.0, calibrates=True, host_layers=38),
            Point("two GPUs, 24 layers on the CPU", 31.8, 0.0, host_layers=24),
        ),
        fits=("cpu_memory_bytes_per_s", "graph_launch_s"),
        said="layers split over two cards run by turns: simulated as one; the three rows of 8,192 tokens of context",
    ),
    Series(
        "ds4_gb10", "github antirez/ds4 issue 639, CUDA on a GB10", ("web20_colibri_ds4.r5",), "DeepSeek-V4-Flash",
        "mxfp4", GLM, "m5_max", "mlx_ssd", "mlx_ssd",
        (
            Point("no cache", 1.03, 0.0, calibrates=True),
            Point("100 GB, 81 % hits", 2.96, 100 / 149, stated_hits=0.81),
        ),
        fits=(STORAGE,),
        until_hits=0.81,
        figures={"gpu_memory_bytes_per_s": 273e9, "readback_s": 50e-6, "install_s": 0.0},
        said="a hit is copied within memory before it is used there, which is left out",
    ),
    Series(
        "colibri_1091", "github JustVugg/colibri issue 1091",
        ("colibri1091_9850x3d_5090", "web20_colibri_ds4.r2", "web20_colibri_ds4.r3"), "GLM-5", "int4",
        GLM, "desktop_nvme", "llama_cpp", "ssd_cpu",
        (
            Point("cap 8", 0.89, 0.0, True, (8 + PINNED) / 256, stated_hits=0.381),
            Point("cap 10", 0.91, 0.0, False, (10 + PINNED) / 256, stated_hits=0.410),
            Point("cap 13", 0.78, 0.0, False, (13 + PINNED) / 256, stated_hits=0.451),
        ),
        fits=(STORAGE,),
        said="experts on the CPU, host memory as the cache, of cap experts a layer and 20 GB pinned, which are "
        "simulated as cache too; its last point is slower with more hits, and its resident memory shrank from 46 to "
        "34 GB there",
    ),
    Series(
        "phone_bigmoe_74", "github Helldez/BigMoeOnEdge issue 74",
        tuple(f"web16_phone_qwen36.r{number}" for number in (1, 2, 3, 4)), "Qwen3.5-35B-A3B", "Q4_K_M",
        "qwen3_5_397b_a17b_published", "m5_max", "mlx_ssd", "mlx_ssd",
        # shares of 10,240 experts of 1.915 MB
        (
            Point("2000 MiB", 4.3, 2000 * 2**20 / (10_240 * 1.915e6), calibrates=True, stated_hits=0.56),
            Point("3000 MiB", 5.0, 3000 * 2**20 / (10_240 * 1.915e6), calibrates=True, stated_hits=0.65),
            Point("2000 MiB, 6 experts", 5.4, 2000 * 2**20 / (10_240 * 1.915e6), stated_hits=0.60, top_k=6),
            Point("3000 MiB, 6 experts", 5.8, 3000 * 2**20 / (10_240 * 1.915e6), stated_hits=0.68, top_k=6),
        ),
        fits=("readback_s", STORAGE),
        protocol=Protocol(0, 96, 0, "cold"),
        figures={"gpu_memory_bytes_per_s": 77e9, "install_s": 0.0},
        said="a phone with UFS 4: experts on its CPU, at the datasheet's rate of LPDDR5X; what computing costs beyond "
        "that is part of the fitted constant per layer",
    ),
)  # fmt: skip
