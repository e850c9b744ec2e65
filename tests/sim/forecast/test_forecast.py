"""Forecasts: what fits where, by hand; refusals; what a change of a part does; the screen and the command."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, assemble
from sim.commands.forecast import main
from sim.config import RunConfig
from sim.forecast.answer import answer
from sim.forecast.ask import Ask, Plan, Refusal
from sim.forecast.first_token import first_token
from sim.forecast.machines import ForecastMachine
from sim.forecast.mixed_layers import Mixed
from sim.forecast.models import family_of, read_model
from sim.forecast.plans import RUNTIMES, plans_for
from sim.forecast.predict import forecast
from sim.forecast.read_machine import read_machine
from sim.forecast.routing import Hits, hits_of, routing_for
from sim.forecast.screen import screen
from sim.forecast.shipped import shares_of, shipped_parameters, shipped_scores, times_width
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.machine.model import geometry
from sim.machine.runtime import load_runtime
from sim.metrics.step_table import StepTable
from sim.statistics.prediction_interval import reach
from sim.validation.published.corpus.estimate import FACTORS, NAMES, problem_of, seconds
from sim.validation.published.corpus.parts import SHIPPED
from sim.validation.published.corpus.placement import CPU_EXPERTS, RESIDENT
from sim.validation.published.corpus.prefill import prompts_of
from sim.validation.published.corpus.tables import read_corpus
from traces.errors import UserError

PARTS = "RTX 4070, Ryzen 7 7700, 2ch DDR5-5600, 64 GB RAM"


def machine(words: str = PARTS) -> ForecastMachine:
    return read_machine(words, shares_of(shipped_parameters()))


def ask(model: str = "qwen3_30b_a3b_q4", words: str = PARTS, context: int = 4096, workspace: float = 1.5e9) -> Ask:
    return Ask(read_model(model, None), machine(words), None, context, workspace)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("qwen3_30b_a3b_q4", "qwen3"),
        ("Qwen3-235B-A22B-Instruct-2507-4bit", "qwen3"),
        ("Qwen3.5-397B-A17B-4bit", "qwen3-5"),
        ("qwen3_next_80b_a3b", "qwen3-next"),
        ("gpt_oss_20b", "gpt-oss"),
        ("GLM-5.2-4bit", "glm-5"),
        ("glm_5", "glm-5"),
        ("mixtral_8x7b", "mixtral"),
        ("deepseek_v3_q4", "deepseek-v3"),
        ("gemma-4-26b-a4b-it-4bit", "gemma-4"),
    ],
)
def test_a_family_is_what_stands_before_the_size(name: str, family: str) -> None:
    assert family_of(name) == family


def test_layers_of_experts_fill_what_the_rest_of_the_gpu_leaves() -> None:
    found = ask()
    sizes = geometry(found.model.dimensions)
    assert sizes.attention_bytes and sizes.other_bytes is not None
    room = 12 * 2**30 - sum(sizes.attention_bytes) - sizes.other_bytes - found.kv_bytes - 1.5e9
    kept = int(room // (128 * found.model.expert_bytes[0]))
    (plan, _), _ = plans_for(found, ["llama_cpp"])
    assert plan.setting.placement.kind == CPU_EXPERTS
    assert plan.setting.placement.cpu_layers == 48 - kept
    assert f"--n-cpu-moe {48 - kept} " in plan.flags
    assert plan.gpu_bytes <= 12 * 2**30 < plan.gpu_bytes + 128 * found.model.expert_bytes[0]
    assert plan.host_bytes == (48 - kept) * 128 * found.model.expert_bytes[0]


def test_k_and_v_of_a_longer_context_push_layers_out() -> None:
    layers = [plans_for(ask(context=tokens), ["llama_cpp"])[0][0].setting.placement.cpu_layers for tokens in (0, 65536)]
    assert layers[0] < layers[1]
    assert ask(context=1000).kv_bytes == 1000 * 48 * 2 * 4 * 128 * 2  # 4 heads of 128, K and V, 16 bits


def test_what_fits_is_resident_and_what_does_not_is_refused() -> None:
    plans, refusals = plans_for(
        ask(words="RTX 5090, Ryzen 9 9950X, 64 GB RAM"), ["llama_cpp", "cuda_graphs", "eager_hf"]
    )
    assert [plan.setting.placement.kind for plan in plans][:1] == [RESIDENT]
    assert [refusal.runtime for refusal in refusals] == ["eager_hf"]
    plans, refusals = plans_for(ask(words="RTX 3060, i5-12400, 16 GB RAM"), ["cuda_graphs"])
    assert not plans
    assert "do not fit" in refusals[0].why


def test_what_host_memory_cannot_hold_is_refused_by_name() -> None:
    plans, refusals = plans_for(ask("glm_4_5_air", "RTX 4090, i5-12400, 32 GB RAM"), ["llama_cpp"])
    assert not plans
    assert all("would be read from storage" in refusal.why for refusal in refusals)


@pytest.mark.slow
def test_a_mapped_file_is_read_from_storage_where_memory_lacks_room() -> None:
    model = read_model("gpt_oss_120b", None)
    drive = Ask(
        model, machine("RTX 3060, i5-12400, 32 GB RAM, 3 GB/s ssd"), routing_for(model, None, None), 4096, 1.5e9
    )
    plans, _ = plans_for(drive, ["llama_cpp"])
    (plan,) = plans
    assert plan.hit_rate is not None
    assert plan.setting.placement.miss == pytest.approx((1 - plan.hit_rate) * plan.setting.placement.cpu_layers / 36)
    found = answer(drive, ["llama_cpp"], ())
    assert not found.best.checked
    assert found.first_token is None
    assert found.best.forecast.shares["storage"] > 0.1
    ratios = {change.what: change.ratio for change in found.changes}
    assert ratios["a disk twice as fast"] is not None
    assert ratios["a disk twice as fast"] > 1


@pytest.mark.slow
def test_unified_memory_reads_from_its_ssd_what_it_lacks() -> None:
    model = read_model("qwen3_235b_a22b", "Q8_0")
    found = Ask(model, machine("m5_max"), routing_for(model, None, None), 4096, 1.5e9)
    (plan,) = RUNTIMES["mlx_ssd"](found)
    assert isinstance(plan, Plan)
    assert plan.hit_rate is not None
    assert plan.setting.placement.miss == pytest.approx(1 - plan.hit_rate)
    assert forecast(plan.setting, ()).shares["storage"] > 0.1
    ratios = {change.what: change.ratio or 0.0 for change in answer(found, ["mlx_ssd"], ()).changes}
    assert ratios["a disk twice as fast"] > 1.2
    assert ratios["twice the memory"] > 1.2
    (refusal,) = RUNTIMES["mlx_ssd"](ask())
    assert isinstance(refusal, Refusal)


def test_caches_without_a_card_of_the_family_are_refused_and_borrowing_says_so() -> None:
    model = read_model("glm_4_5_air", "Q4_K_M")
    assert routing_for(model, None, None) is None
    found = Ask(model, machine(), None, 4096, 1.5e9)
    _, (refusal,) = plans_for(found, ["llama_cpp_moe_cache"])
    assert "no card is of the family glm-4-5-air: borrow=CARD" in refusal.why
    borrowed = routing_for(model, None, "gpt_oss_20b")
    assert borrowed is not None
    assert borrowed.said().startswith("BORROWED from another family: gpt_oss_20b (MEASURED), drawn SYNTHETIC")
    with pytest.raises(UserError, match=r"card=gpt_oss_20b is of gpt_oss_20b, another family .*: borrow=gpt_oss_20b"):
        routing_for(model, "gpt_oss_20b", None)


def test_the_nearest_card_of_a_family_is_taken() -> None:
    names = {
        name: routing.card_name
        for name in ("qwen3_30b_a3b", "qwen3_235b_a22b", "gpt_oss_120b", "mixtral_8x7b")
        if (routing := routing_for(read_model(name, None), None, None))
    }
    assert names == {
        "qwen3_30b_a3b": "qwen3_30b_a3b_phone",
        "qwen3_235b_a22b": "qwen3_235b_a22b_published",
        "gpt_oss_120b": "gpt_oss_20b",
        "mixtral_8x7b": "mixtral_8x7b",
    }


def test_a_forecast_is_the_corpus_own_prediction_and_its_interval_the_corpus_own_errors() -> None:
    (plan, *_), _ = plans_for(ask(), ["llama_cpp"])
    found = forecast(plan.setting, ())
    assert found.tokens_per_s == pytest.approx(1 / seconds(problem_of([plan.setting]), shipped_parameters())[0])
    scores = [score for score in shipped_scores() if score.rows_before == 0]
    times = reach([score.log_error / score.width for score in scores], [score.family for score in scores])
    assert times == times_width(0)
    assert found.low * found.high == pytest.approx(found.tokens_per_s**2)
    assert sum(found.shares.values()) == pytest.approx(1)


def test_fewer_hits_widen_the_interval() -> None:
    (plan, *_), _ = plans_for(ask(), ["llama_cpp"])
    slower = replace(plan.setting, placement=replace(plan.setting.placement, cpu_layers=48))
    assert forecast(plan.setting, (), slower).high > forecast(plan.setting, ()).high


def test_more_memory_and_faster_ram_help_as_they_should() -> None:
    found = answer(ask(), ["llama_cpp"], ())
    change = {one.what: one for one in found.changes}
    assert change["RAM twice as fast"].ratio is not None
    assert 1 < change["RAM twice as fast"].ratio < 2
    assert change["this GPU with 24 GB"].plan == "everything on the GPU"
    assert [name for name in change if "this GPU" in name] == [f"this GPU with {size} GB" for size in (16, 24, 32)]
    assert change["the next PCIe"].ratio == pytest.approx(1, abs=1e-3)
    assert change["a disk twice as fast"].why_not == "nothing is read from storage while it writes"


def test_a_bench_s_empty_context_never_becomes_a_server_s_flag() -> None:
    for words in (PARTS, "RTX 5090, Ryzen 9 9950X, 64 GB RAM"):
        plans, _ = plans_for(ask(words=words, context=0), ["llama_cpp", "cuda_graphs"])
        assert plans
        assert all(re.search(r"(-c|--max-model-len) 512\b", plan.flags) for plan in plans)
    (plan,), _ = plans_for(replace(ask(context=0), placement="exps=CPU"), ["llama_cpp"])
    assert plan.flags.endswith("-c 512")
    assert "512 tokens are room for an answer" in screen(answer(ask(context=0), ["llama_cpp"], ()))


def test_bits_that_nobody_asked_for_are_told_with_smaller_ones() -> None:
    whole, named = read_model("qwen3_30b_a3b", None), read_model("qwen3_30b_a3b", "BF16")
    assert "quantisation=Q4_K_M" in whole.smaller
    assert named.smaller == read_model("qwen3_30b_a3b_q4", None).smaller == ""
    asked = ask("qwen3_30b_a3b", "RTX 4070, Ryzen 7 7700, 2ch DDR5-5600, 96 GB RAM")
    assert whole.smaller in screen(answer(asked, ["llama_cpp"], ()))
    with pytest.raises(UserError, match=r"no plan runs .*quantisation=Q4_K_M takes a file of four"):
        answer(replace(asked, placement="all resident"), ["llama_cpp"], ())
    published, file = read_model("gpt_oss_120b", None), read_model("gpt_oss_120b", "MXFP4_MOE")
    assert "quantisation=MXFP4_MOE" in published.smaller
    assert file.bytes == pytest.approx(59.02 * 2**30, rel=0.005)  # what llama-bench prints of ggml-org's file
    assert file.smaller == ""


def test_what_a_gpu_may_fill_of_shared_memory_is_taken_as_said(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["model=qwen3_235b_a22b", "quantisation=Q3_K_M", "runtime=llama_cpp", "hardware=Ryzen AI Max+ 395 128GB"]
    with pytest.raises(UserError, match="do not fit beside the rest"):
        main(asked)
    assert main([*asked, "gpu_memory=115"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of 115.00 GiB, with K and V" in said
    assert main([*asked, "ram=192"]) == 0
    assert "of 134.11 GiB (75 % of all, ESTIMATED: gpu_memory= says" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"gpu_memory=128: .* must be at most 119.2 GiB, which is 128 GB"):
        main([*asked, "gpu_memory=128"])


def test_the_screen_says_why_a_flag_counts_more_layers_than_have_experts() -> None:
    asked = replace(ask(words="RTX 3090, 3960X, 4ch DDR4-3200, 128 GB RAM"), model=read_model("glm_4_5_air", "Q4_K_M"))
    found = answer(asked, ["llama_cpp"], ())
    on_cpu = found.best.plan.setting.placement.cpu_layers
    assert f"--n-cpu-moe {on_cpu + 1} " in found.best.plan.flags
    assert "--n-cpu-moe is 1 more than layers of experts" in screen(found)
    assert "more than layers of experts" not in screen(answer(ask(), ["llama_cpp"], ()))


def test_a_laptops_cpu_is_not_its_desktop_namesake() -> None:
    assert machine("RTX 4060 Laptop 8GB, i7-13700H, 32GB DDR5-5200").rates.cores == 14
    assert machine("RTX 4060 Laptop 8GB, i7-13700HX, 32GB DDR5-5200").rates.cores == 16


def test_the_screen_says_what_more_ram_brings_and_what_to_do_where_it_does_not_fit() -> None:
    found = answer(ask(words="RTX 3060, Ryzen 5 5600X, 2ch DDR4-3200, 32 GB RAM, 1 TB NVMe SSD"), ["llama_cpp"], ())
    said = " ".join(screen(found).split())
    used = found.best.plan.host_bytes / 1e9
    assert re.search(rf"twice the RAM [\d.]+ tokens/s, x1.00: the same plan, {used:.1f} of 32 GB used", said)
    assert "this GPU with 24 or 32 GB" in said
    assert "(GPUs at the same 360 GB/s)" in said
    assert "Ryzen 5 5600, as which Ryzen 5 5600X is taken" in said
    assert "1 TB NVMe SSD: its rate is not known" in said
    assert "among these: no row of a GeForce RTX 3060" in said
    assert {near.same_model for near in found.nearest if "Qwen3-30B-A3B" in near.what} == {True}
    assert {near.same_model for near in found.nearest if "Qwen3.6" in near.what} <= {False}
    assert found.looser is not None
    layers = found.best.plan.setting.placement.cpu_layers
    assert found.looser.flag == f"--n-cpu-moe {layers + 1}"
    assert 0.9 < found.looser.tokens_per_s / found.best.forecast.tokens_per_s < 1
    assert f"if it does not fit: --n-cpu-moe {layers + 1}, " in said


def test_what_is_close_behind_is_what_costs_nearly_as_much_time() -> None:
    (plan, *_), _ = plans_for(ask(words="RTX 3060, Ryzen 5 5600X, 2ch DDR4-3200, 32 GB RAM"), ["llama_cpp"])
    found = forecast(plan.setting, ())
    first = next(name for name in found.shares if name in ("RAM", "CPU cores"))
    assert {first, found.close} == {"RAM", "CPU cores"}
    fast = replace(plan.setting, rates=replace(plan.setting.rates, ram_bytes_per_s=1e12))
    assert forecast(fast, ()).close == ""


def test_a_prompt_into_a_cold_cache_over_the_link_by_hand() -> None:
    """imp's 5090: arithmetic, weights once and every expert over the link once for 512 tokens."""
    shipped = read_corpus(SHIPPED)
    (cold,) = [p for p in prompts_of(shipped) if p.setting.row.row_id == "imp_qwen30_q4km.03"]
    model, experts = cold.setting.model, 48 * 128 * 3 * 2048 * 768
    active = 48 * (8 * 3 * 2048 * 768 + 2048 * 128 * 72 + 4352 + 2048 * 128)
    arithmetic = 2 * active * 512 / 209.5e12
    sizes = geometry(model)
    assert sizes.attention_bytes and sizes.other_bytes
    rest = sum(sizes.attention_bytes) + sizes.other_bytes
    seconds = arithmetic + (experts * 4.87 / 8 + rest) / 1792e9 + experts * 4.87 / 8 / 25.6e9
    assert cold.terms_s * 512 == pytest.approx(seconds, rel=1e-3)
    assert cold.measured_s == pytest.approx(1 / 308.11)
    assert all(prompt.setting.row.confidence != "low" for prompt in prompts_of(shipped))


def test_the_first_token_waits_for_copies_of_the_experts_in_host_memory() -> None:
    (plan, *_), _ = plans_for(ask(), ["llama_cpp"])
    short, long = first_token(plan.setting, 512, 0.0), first_token(plan.setting, 5120, 0.0)
    assert short is not None
    assert long is not None
    assert long.seconds == pytest.approx(10 * short.seconds)
    assert short.low < short.seconds < short.high


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("RTX 4070, Ryzen 7 7700, 2ch DDR5-5600, 64 GB RAM", (504e9, 2 * 8 * 5600e6, 12 * 2**30, 64e9)),
        ("RTX 4070 12GB + i7-8700 + 32 GB ddr4", (504e9, 2 * 8 * 2666e6, 12 * 2**30, 32e9)),
        ("RTX 3090, 80 GB/s RAM, 128 GB memory", (936e9, 80e9, 24 * 2**30, 128e9)),
        ("i7-8700, 16 GB RAM", (None, 2 * 8 * 2666e6, None, 16e9)),
        ("RTX 4060 Ti 8GB, 64GB 2ch DDR5-6000", (288e9, 2 * 8 * 6000e6, 8 * 2**30, 64e9)),
        ("RTX 4070, Ryzen 7 7700, 64 GB dual-channel DDR5-5600", (504e9, 2 * 8 * 5600e6, 12 * 2**30, 64e9)),
        ("DDR5-5600, 64 GB, Ryzen 7 7700, RTX 4070", (504e9, 2 * 8 * 5600e6, 12 * 2**30, 64e9)),
        ("RTX 4070, Ryzen 7 7700, 2x32GB DDR5 5600MHz", (504e9, 2 * 8 * 5600e6, 12 * 2**30, 64e9)),
        ("RTX 4070, EPYC 9355, quad channel 128 GB DDR5-4800", (504e9, 4 * 8 * 4800e6, 12 * 2**30, 128e9)),
        ("rtx 3060, ryzen 5 5600, 32 GB", (360e9, 2 * 8 * 3200e6, 12 * 2**30, 32e9)),
    ],
)
def test_machines_of_named_parts(words: str, expected: tuple[float | None, ...]) -> None:
    rates = machine(words).rates
    assert (rates.gpu_bytes_per_s, rates.ram_bytes_per_s, rates.vram_bytes, rates.ram_bytes) == expected


def test_rates_of_a_hardware_file_are_what_software_reaches() -> None:
    shares = shares_of(shipped_parameters())
    rates = machine("rtx4070_ddr5").rates
    assert rates.ram_bytes_per_s is not None
    assert rates.link_bytes_per_s is not None
    assert rates.ram_bytes_per_s * shares["dram_share"] == pytest.approx(38.4e9)
    assert rates.link_bytes_per_s * shares["link_share"] == pytest.approx(25e9)
    assert rates.ram_uncertainty == 0.4


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["model=qwen3_30b_a3b"], "hardware= is missing"),
        (["hardware=rtx4070_ddr5"], "model= is missing: model=qwen3_30b_a3b_q4, say"),
        (["model=nothing", "hardware=rtx4070_ddr5"], "model=nothing is not known: must be a [*].gguf file"),
        (
            ["model=gpt_oss_20b", "hardware=my old laptop"],
            "hardware=my old laptop: 'my old laptop' is not known: name a",
        ),
        (
            ["model=gpt_oss_20b", "hardware=2x RTX 3090, i7-8700"],
            "a forecast is of one: name one; .* devices.count=2",
        ),
        (["model=gpt_oss_20b", "hardware=RTX 4090, RTX 3090"], "'RTX 3090' says GPU a second time"),
        (["model=gpt_oss_20b", "hardware=RTX 4090, 64 GB, 32 GB RAM"], "'32 GB RAM' says RAM a second time"),
        (["model=gpt_oss_20b", "hardware=RTX 4090, -5 GB RAM"], "'-5 GB RAM' is not known"),
        (["model=gpt_oss_20b", "hardware=RTX 4090, 0 GB RAM"], "'0 GB RAM' is not known"),
        (["model=gpt_oss_20b", "hardware=RTX 4090, 1e9 GB/s ssd"], "'1e9 GB/s ssd' is not known"),
        (
            ["model=gpt_oss_120b", "hardware=RTX 4090, i7-8700, 32 GB RAM, 2 TB NVMe", "runtime=llama_cpp"],
            "would be read from storage; say how fast yours reads, as 5 GB/s ssd",
        ),
        (["model=gpt_oss_20b", "hardware=RTX 4090, i7-8700 64 GB RAM"], "put a comma between them"),
        (["model=gpt_oss_20b", "hardware=rtx4070"], "RAM is not known: say it, .* or hardware=rtx4070_ddr5"),
        (["model=gpt_oss_20b", "hardware=dual RTX 3090, i7-8700"], "several GPUs: a forecast is of one"),
        (["model=gpt_oss_20b", "hardware=RTX 3090 x2, i7-8700"], "several GPUs: a forecast is of one"),
        (["model=gpt_oss_20b_q8", "hardware=rtx4070_ddr5"], "give model=gpt-oss-20b quantisation=Q8_0"),
        (
            ["model=qwen3_235b_a22b_q4", "hardware=rtx4070_ddr5"],
            "names a quantisation, .* give model=Qwen3-235B-A22B quantisation=Q4_K_M",
        ),
        (["model=gpt_oss_20b", "hardware=64 GB RAM"], "no GPU or CPU of parts.csv is named"),
        (["model=gpt_oss_20b", "hardware=M4 Max"], "say how much memory it has"),
        (["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "context=-1"], "context=-1: must be a whole number from 0"),
        (
            ["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "context=1e400"],
            "context=1e400: must be a whole number from 0",
        ),
        (
            ["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "runtime=smoe_2026_07"],
            "runtime=smoe_2026_07: must be any or",
        ),
        (["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "quantisation=Q99"], "quantisation=Q99: must be one of BF16"),
        (["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "format=xml"], "format=xml: must be text or json"),
        (["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "card=a", "borrow=b"], "card=a and borrow=b: give one of them"),
        (["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "out=x.yaml"], "out=x.yaml: only with hardware=here"),
        (["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "placement=x"], "placement=x: must be all resident, CPU only"),
        (["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "model=x"], "model= stands twice"),
        (["model=gpt_oss_20b", "hardware=rtx4070_ddr5", "borrow=b"], "borrow=b: must be one of gemma"),
        (["--borrow", "x"], "forecast: --borrow is not known"),
        (["model=x", "batch=4"], "batch=4: several requests at once are not forecast"),
        (["model=x", "devices.count=2"], "devices.count=2: several GPUs are not forecast"),
        (["model=x", "speculate.length=3"], "speculate.length=3: drafts are not forecast"),
    ],
)
def test_bad_words_are_one_sentence(argv: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(argv)


def test_every_runtime_of_a_plan_is_one_of_conf() -> None:
    from sim.machine.runtime import runtime_names

    assert set(RUNTIMES) <= set(runtime_names())


def test_the_rtx_2080_comes_within_a_quarter_from_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    """36.7 tokens/s (AlexsJones/llmfit, pull request 755), with the experts of 36 layers on the CPU."""
    words = ["model=qwen3_30b_a3b_q4", "hardware=rtx2080_ddr4", "placement=--n-cpu-moe 36", "format=json"]
    assert main(words) == 0
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert abs(plan["tokens_per_s"] / 36.7 - 1) < 0.25
    assert plan["low"] < 36.7 < plan["high"]


def test_the_screen_is_one_screen() -> None:
    shown = screen(answer(ask(), ["llama_cpp", "ktransformers", "llama_cpp_moe_cache"], ()))
    lines = shown.splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= 110
    for words in (
        "tokens/s while it writes",
        "llama-server -m MODEL.gguf",
        "first token",
        "what would help",
        "your rows",
    ):
        assert words in shown


@pytest.mark.slow
def test_caches_are_replayed_from_the_familys_card() -> None:
    model = read_model("gpt_oss_20b", None)
    found = Ask(model, machine("RTX 2060, i7-8700, 32 GB RAM"), routing_for(model, None, None), 4096, 1.5e9)
    hits = {
        name: plan.hit_rate
        for name in ("llama_cpp_moe_cache", "imp_2026_08_pool", "ktransformers")
        for plan in RUNTIMES[name](found)
        if isinstance(plan, Plan) and plan.hit_rate is not None
    }
    assert set(hits) == {"llama_cpp_moe_cache", "imp_2026_08_pool", "ktransformers"}
    assert all(0.05 < hit < 1 for hit in hits.values())
    rated = answer(found, list(RUNTIMES), ()).rated
    checked = [one.checked for one in rated]
    assert checked == sorted(checked, reverse=True)
    assert not any(one.checked for one in rated if one.plan.hit_rate is not None)


@pytest.mark.slow
def test_sixty_layers_of_512_experts_are_answered_in_time() -> None:
    """Under 10 s of processor time once compiled; what is compiled by the first call is not counted."""
    import time

    words = [
        "model=qwen3_5_397b_a17b",
        "quantisation=Q4_K_M",
        "hardware=RTX 5090, EPYC 9355, 512 GB RAM",
        "format=json",
    ]
    assert main(words) == 0
    begin = time.process_time()
    assert main(words) == 0
    assert time.process_time() - begin < 10


def test_a_refusal_is_no_plan() -> None:
    assert isinstance(RUNTIMES["mixtral_offloading"](ask())[0], Refusal)
    assert np.isfinite(times_width(2))


def test_a_calibration_in_which_the_cpu_plays_the_gpu_is_refused(tmp_path: Path) -> None:
    text = Path("conf/hardware/rtx4090.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(re.sub(r'  link_bytes_per_s: "\w+:', '  link_bytes_per_s: "EMULATED:', text))
    with pytest.raises(UserError, match=r"its link is EMULATED, and the CPU plays the GPU: take hardware=here"):
        machine(str(tmp_path / "mine.yaml"))


def test_words_about_ram_that_are_not_read_are_said() -> None:
    assert machine("RTX 4070, Ryzen 7 7700, 64 GB DDR5-5600 dual channel kit CL30").not_read == ()
    assert machine("RTX 4070, Ryzen 7 7700, 1024 GB DDR5, 5 GB/s ssd").rates.ram_bytes_per_s == 2 * 8 * 5200e6
    (said,) = machine("RTX 4070, Ryzen 7 7700, 64 GB DDR5-5600 Corsair").not_read
    assert "Corsair" in said


def test_a_placement_that_does_not_fit_says_by_how_much() -> None:
    found = replace(ask(), placement="--n-cpu-moe 20")
    _, (refusal,) = plans_for(found, ["llama_cpp"])
    assert re.search(r"takes 12\.06 GiB, the GPU has 12\.00 GiB: 0\.06 GiB too much", refusal.why)
    (most,) = re.findall(r"or workspace=(\S+) where", refusal.why)
    (plan,), _ = plans_for(replace(found, workspace_bytes=1e9 * float(most)), ["llama_cpp"])
    assert plan.flags == "llama-server -m MODEL.gguf -ngl 99 --n-cpu-moe 20 -c 4096"


def test_a_layer_that_misses_waits_while_others_have_nothing_to_wait_for() -> None:
    """Half of the layers miss two experts: the token takes the mean of both kinds' times, not that of the mean."""
    (plan, *_), _ = plans_for(ask(), ["llama_cpp"])
    cache = replace(plan.setting, placement=replace(plan.setting.placement, cpu_layers=0, gpu_share=7 / 8))
    cache = replace(cache, software="llama_cpp_moe_cache")
    none, two = (
        forecast(replace(cache, placement=replace(cache.placement, gpu_share=share)), ()) for share in (1.0, 6 / 8)
    )
    found = forecast(cache, (), None, (0.5, 0, 0.5, 0, 0, 0, 0, 0, 0))
    assert 1 / found.tokens_per_s == pytest.approx((1 / none.tokens_per_s + 1 / two.tokens_per_s) / 2)
    assert sum(found.shares.values()) == pytest.approx(1)
    alike = forecast(cache, (), None, (0, 1.0, 0, 0, 0, 0, 0, 0, 0))
    assert alike.tokens_per_s == pytest.approx(forecast(cache, ()).tokens_per_s)
    assert alike.high == pytest.approx(forecast(cache, ()).high)


def test_fewer_hits_are_spread_over_layers() -> None:
    fewer = Hits(0.75, (0.5, 0.0, 0.5, 0.0, 0.0)).fewer(0.15)  # each hit is a miss with chance 1/5
    assert fewer.rate == pytest.approx(0.6)
    assert sum(fewer.layers) == pytest.approx(1)
    assert fewer.layers[0] == pytest.approx(0.5 * 0.8**4)
    assert sum(missed * share for missed, share in enumerate(fewer.layers)) == pytest.approx(4 * 0.4)


@pytest.mark.slow
def test_a_cache_whose_misses_the_cpu_computes_takes_the_engines_own_time() -> None:
    model = read_model("qwen3_30b_a3b_q4", None)
    routing = routing_for(model, None, None)
    assert routing is not None
    trace, sizes, name = routing._trace(), geometry(model.dimensions), "llama_cpp_moe_cache"
    setup = DeviceSetup(
        load_policy(name),
        Machine(load_hardware("rtx4070_ddr5"), load_runtime(name)),
        CacheConfig(slots_per_layer=72, start="warm"),
        RunConfig(engine="compiled", timeline=True),
    )
    hits = hits_of(assemble(trace.select_requests(2), setup, sizes), trace.top_k)
    plain = replace(setup, run=RunConfig(engine="compiled"))
    metrics = StepTable(assemble(trace.select_requests(2), plain, sizes)).run().metrics()
    assert hits.rate == pytest.approx(metrics["decode.hit_rate"])
    (plan,) = RUNTIMES[name](Ask(model, machine("rtx4070_ddr5"), routing, 64, 1.5e9))
    assert isinstance(plan, Plan)
    shares = shares_of(shipped_parameters())
    shares |= {"gpu_share": 0.8, "software_llama.cpp": 1.0, "core_flops_per_s": 1e15}  # of the files, not FITTED
    parameters = np.log([shares[share] for share in NAMES])
    time = Mixed.of(plan.setting, hits.layers).seconds(parameters, np.zeros(len(FACTORS)))
    assert time == pytest.approx(metrics["tpot_s.mean"], rel=1e-3)
    assert forecast(plan.setting, (), None, hits.layers).shares["RAM"] > 0.05
