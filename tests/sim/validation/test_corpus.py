"""The corpus: its rule, placements, baselines by hand, leave-one-out that leaves out, and the errors it reaches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.machine.durations import tabulate
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.machine.model import geometry
from sim.machine.runtime import load_runtime
from sim.validation.config import PublishedConfig
from sim.validation.findings import Findings
from sim.validation.published.corpus import baselines
from sim.validation.published.corpus.estimate import (
    FACTORS,
    NAMES,
    SPREAD,
    calibrate,
    fit,
    prior,
    problem_of,
    seconds,
    widened,
)
from sim.validation.published.corpus.held_out import families, predict_all
from sim.validation.published.corpus.parts import SHIPPED, SPECIFIED, STATED, rates_of
from sim.validation.published.corpus.placement import (
    CPU_EXPERTS,
    CPU_ONLY,
    LINK_CACHE,
    RESIDENT,
    STORAGE_CACHE,
    Placement,
    placement_of,
)
from sim.validation.published.corpus.predict import predict_published, settings_of
from sim.validation.published.corpus.rule import Setting, context_of, express
from sim.validation.published.corpus.sizes import find_model
from sim.validation.published.corpus.tables import Measurement, StatedMachine, read_corpus
from sim.validation.published.corpus.terms import blind, terms_of
from tests.support.corpus_rows import machine_cells, measurement_cells, write_corpus


@pytest.fixture(scope="module")
def shipped() -> list[Setting]:
    return settings_of(read_corpus(SHIPPED))[0]


@pytest.fixture(scope="module")
def findings() -> Findings:
    return predict_published(PublishedConfig(name="corpus"))


def read_one(folder: Path, machine: dict[str, str] | None = None, **cells: str) -> tuple[Measurement, StatedMachine]:
    write_corpus(folder, [measurement_cells(**cells)], [machine_cells(**(machine or {}))])
    corpus = read_corpus(folder)
    return corpus.rows[0], corpus.machines["m1"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"placement_value": "36"}, Placement(CPU_EXPERTS, 36)),
        ({"placement_value": "-ncmoe 20", "placement_kind": "see value"}, Placement(CPU_EXPERTS, 20)),
        ({"placement_value": "--n-cpu-moe all (41)", "placement_kind": ""}, Placement(CPU_EXPERTS, 41)),
        ({"placement_value": "-ncmoe 99 (all on CPU)", "placement_kind": ""}, Placement(CPU_EXPERTS, 48)),
        ({"placement_value": "1 GPU -cmoe"}, Placement(CPU_EXPERTS, 48)),
        ({"placement_value": "-ot exps=CPU", "placement_kind": ""}, Placement(CPU_EXPERTS, 48)),
        ({"placement_value": "", "flags": "-ngl 99 --n-cpu-moe 12"}, Placement(CPU_EXPERTS, 12)),
        ({"placement_value": "not stated", "flags": "--n-cpu-moe N"}, None),
        ({"placement_value": "0"}, Placement(RESIDENT)),
        ({"placement_value": "all resident", "placement_kind": "see value"}, Placement(RESIDENT)),
        ({"placement_value": "CPU only", "placement_kind": ""}, Placement(CPU_ONLY)),
        ({"placement_value": "head 12 + tail 10 layers on GPU", "placement_kind": ""}, Placement(CPU_EXPERTS, 26)),
        ({"placement_value": "28 of 128 GPU experts ctx 969", "placement_kind": ""},
         Placement(CPU_EXPERTS, gpu_share=28 / 128)),
        ({"placement_value": "25 % of experts on GPU", "placement_kind": ""}, Placement(CPU_EXPERTS, gpu_share=0.25)),
        ({"placement_value": "budget", "placement_kind": "LRU slots", "hit_rate": "0.75"},
         Placement(LINK_CACHE, miss=0.25)),
        ({"placement_value": "staging only", "placement_kind": "LRU"}, Placement(LINK_CACHE, miss=1.0, lookup=False)),
        ({"placement_value": "--override-tensor .ffn_.*_exps.=CPU", "placement_kind": ""}, Placement(CPU_EXPERTS, 48)),
        ({"placement_value": "all experts in RAM", "placement_kind": ""}, Placement(CPU_EXPERTS, 48)),
        ({"placement_value": "", "placement_kind": "", "flags": "n_cpu_moe=24"}, Placement(CPU_EXPERTS, 24)),
        ({"placement_value": "100 % GPU", "placement_kind": ""}, Placement(RESIDENT)),
        ({"placement_value": "fully in VRAM", "placement_kind": ""}, Placement(RESIDENT)),
        ({"placement_value": "", "placement_kind": "", "flags": "-ngl 0 -t 8"}, Placement(CPU_ONLY)),
        ({"placement_value": "89 of 512 slots hit .75", "runtime": "slotstream", "placement_kind": ""},
         Placement(STORAGE_CACHE, miss=0.25)),
        ({"placement_value": "hot cache 124 of 256 slots", "placement_kind": ""}, None),
        ({"placement_value": "64 GB, 70 %", "placement_kind": "memory budget (experts resident)"}, None),
    ],
)  # fmt: skip
def test_placements(tmp_path: Path, cells: dict[str, str], expected: Placement | None) -> None:
    row, _ = read_one(tmp_path, **cells)
    known = find_model(row.model)
    assert known is not None
    assert placement_of(row, known.dimensions) == expected


def test_llama_cpp_counts_dense_layers_too(tmp_path: Path) -> None:
    row, _ = read_one(tmp_path, model="GLM-5.1", placement_value="--n-cpu-moe 64 (14 layers on GPU)")
    known = find_model(row.model)
    assert known is not None
    assert placement_of(row, known.dimensions) == Placement(CPU_EXPERTS, 61)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"decode_tok_s": ""}, "no decode rate"),
        ({"decode_tok_s": "n/a"}, "no decode rate"),
        ({"batch": "4"}, "several requests"),
        ({"batch": "not stated"}, "several requests"),
        ({"placement_value": "2 GPU -ncmoe 24"}, "several GPUs"),
        ({"runtime": "vLLM TP2"}, "several GPUs"),
        ({"draft_length": "MTP-4"}, "speculation"),
        ({"quantisation": "int4 + int8 MTP head"}, "speculation"),
        ({"confidence": "low"}, "confidence low"),
        ({"flags": "tg128, peak"}, "a peak"),
        ({"remarks": "avg incl. prompt"}, "includes the prompt"),
        ({"remarks": "model exceeds RAM; disk paging"}, "paging"),
        ({"remarks": "page cache of the OS holds what RAM allows"}, "page cache"),
        ({"placement_value": "cache 8 / 16 / 32 GB"}, "several settings"),
        ({"model": "a new model"}, "unknown size"),
        ({"model": "DeepSeek-V2-Lite / Qwen3.6-35B-A3B"}, "several in one row"),
        ({"quantisation": ""}, "quantisation"),
        ({"quantisation": "0.1 bpw"}, "quantisation"),
        ({"quantisation": "1000 bpw"}, "quantisation"),
        ({"placement_value": "some layers"}, "what was resident where"),
        ({"model": "Qwen3.8-Flash-Next", "context": "112,333"}, "attention cache is not known"),
        ({"runtime": "llama.cpp build X (regression)"}, "regression"),
    ],
)  # fmt: skip
def test_rows_that_the_model_cannot_express_are_left_out_by_reason(
    tmp_path: Path, cells: dict[str, str], said: str
) -> None:
    row, machine = read_one(tmp_path, **cells)
    found = express(row, rates_of(machine))
    assert isinstance(found, str)
    assert said in found


def test_the_rule_never_sees_how_fast_a_row_is(tmp_path: Path) -> None:
    corpus = read_corpus(SHIPPED)
    for row in corpus.rows:
        if row.decode_tok_s is not None:
            rates = rates_of(corpus.machines[row.machine_id])
            found, faster = express(row, rates), express(replace(row, decode_tok_s=row.decode_tok_s * 7), rates)
            assert isinstance(found, Setting) == isinstance(faster, Setting)
            assert not isinstance(found, str) or found == faster


@pytest.mark.parametrize(("vram", "fits"), [("16", False), ("24", True), ("", False)])
def test_what_is_called_resident_must_fit_into_the_gpu(tmp_path: Path, vram: str, fits: bool) -> None:
    machine = {"gpu": "RTX 4060 Ti", "vram_gb": vram}  # 18.3 GB of weights; the card of that name has 16
    row, stated = read_one(tmp_path, machine, placement_value="all resident", placement_kind="")
    found = express(row, rates_of(stated))
    assert isinstance(found, Setting) == fits
    assert fits or "spilt" in str(found)


@pytest.mark.parametrize(
    ("cells", "tokens"),
    [
        ({"context": "112,333"}, 112333), ({"context": "8k"}, 8192), ({"context": "969 prompt, 300 out"}, 969),
        ({"context": "4096 allocated"}, 0), ({"context": "80k", "remarks": "the allocation"}, 0),
        ({"context": "tg128"}, 0), ({"remarks": "128K ctx"}, 131072), ({"runtime": "ollama ctx 8k"}, 8192),
        ({"context": "ShareGPT dataset"}, 0), ({"context": "3,015 / 617 prompt / generated"}, 3015), ({}, 0),
    ],
)  # fmt: skip
def test_tokens_in_the_context(tmp_path: Path, cells: dict[str, str], tokens: int) -> None:
    assert context_of(read_one(tmp_path, **cells)[0]) == tokens


def test_terms_are_those_of_the_time_model(tmp_path: Path) -> None:
    """With the file's own shares the sum is the product's: that of its tables, layer by layer."""
    row, stated = read_one(tmp_path)
    setting = express(row, rates_of(stated))
    assert isinstance(setting, Setting)
    machine = Machine(load_hardware("rtx2080_ddr4"), load_runtime("llama_cpp"))
    d = tabulate(geometry(setting.model), machine, 1)
    assert d.cpu_expert_ns is not None
    layers, cpu = 48, 36
    ns = float((d.attention_weights_ns[:, 1] + d.shared_ns[:, 1]).sum()) + float(d.head_ns[1])
    ns += layers * float(d.before_lookup_ns.sum() + d.after_experts_ns.sum())
    ns += cpu * (8 * float(d.cpu_expert_ns[0, 1]) + float(d.cpu_transfer_ns[1]))
    ns += (layers - cpu) * 8 * (float(d.expert_ns[0, 1]) + d.expert_launch_ns)
    parameters = prior()[0].copy()
    parameters[NAMES.index("dram_share")] = np.log(51.0e9 / 102e9)
    assert seconds(problem_of([setting]), parameters)[0] == pytest.approx(ns / 1e9, rel=1e-3)


def test_hits_are_imposed_and_copies_take_the_links_time(tmp_path: Path) -> None:
    machine = {"link_measured_gb_s": "25", "gpu": "RTX 5090"}
    cells = {"runtime": "FreeToken", "placement_kind": "LRU cache over PCIe", "placement_value": ""}
    row, stated = read_one(tmp_path, machine, hit_rate="0.75", **cells)
    setting = express(row, rates_of(stated))
    assert isinstance(setting, Setting)
    expert = 3 * 2048 * 768 * 4.87 / 8
    terms = terms_of(setting)
    assert terms.link_s == pytest.approx(48 * 8 * 0.25 * (1.3e-6 + expert / 25e9), rel=1e-3)
    assert terms.hits_s == pytest.approx(48 * 8 * 0.75 * expert / 1792e9, rel=1e-3)  # while the others are copied
    assert terms.hits_software_s == pytest.approx(48 * 8 * 0.25 * 6e-6)  # their calls; llama.cpp launches by layer
    assert terms.dram_s == 0
    assert blind(setting)


@pytest.mark.parametrize(
    ("source", "slots", "hit", "software"),
    [
        ("kekzl/imp#1374", "73", "0.741", "imp_2026_08_pool"),
        ("kekzl/imp#1365", "", "0.887", None),  # before pull request 1370
        ("kekzl/imp#1375", "14", "0.0", None),  # holds no token's three matrices of eight experts
    ],
)
def test_imp_reads_slots_of_its_cache_since_a_pull_request(
    tmp_path: Path, source: str, slots: str, hit: str, software: str | None
) -> None:
    cells = {"runtime": "imp (CUDA)", "placement_kind": "LRU slots per layer", "placement_value": "cache on"}
    row, stated = read_one(
        tmp_path, {"link_measured_gb_s": "25", "gpu": "RTX 5090"}, source=source, cache_slots_or_gib=slots,
        hit_rate=hit, **cells,
    )  # fmt: skip
    setting = express(row, rates_of(stated))
    assert isinstance(setting, Setting)
    assert setting.software == software


def test_rows_of_two_builds_do_not_calibrate_each_other(shipped: list[Setting]) -> None:
    keys = {setting.row.row_id: setting.key for setting in shipped}
    assert keys["kt_dsv3_v02.01"] != keys["kt_dsv3_v021_8exp.01"] == keys["kt_dsv3_v021_6exp.05"]
    assert keys["ik2199.01"] != keys["ik2199.03"]
    assert keys["lcpp27742_glidlov.01"] == keys["lcpp27742_glidlov.02"]


def test_bytes_over_bandwidth_by_hand(tmp_path: Path) -> None:
    row, stated = read_one(tmp_path)
    setting = express(row, rates_of(stated))
    assert isinstance(setting, Setting)
    expert = 3 * 2048 * 768 * 4.87 / 8
    attention = (2048 * 128 * (2 * 32 + 2 * 4) + 4352 + 2048 * 128) * 4.87 / 8
    head = (151936 * 2048 + 2048) * 4.87 / 8
    on_gpu = (48 * attention + head + 12 * 8 * expert) / 448e9
    on_cpu = 36 * 8 * expert / 102e9
    assert baselines.bytes_over_bandwidth(setting, terms_of(setting)) == pytest.approx(1 / (on_gpu + on_cpu), rel=1e-3)


def test_llmfit_by_hand(tmp_path: Path) -> None:
    active = 48 * 8 * 3 * 2048 * 768 + 48 * (2048 * 128 * 72 + 4352 + 2048 * 128) + 151936 * 2048 + 2048
    row, stated = read_one(tmp_path)
    setting = express(row, rates_of(stated))
    assert isinstance(setting, Setting)
    gb = active * 0.5 / 1e9  # Q4_K_M counts half a byte per weight
    assert baselines.llmfit(setting) == pytest.approx(0.8 / (gb / 102 + gb / (448 * 0.55)))
    row, stated = read_one(tmp_path, {"gpu": "RTX 5090"}, placement_value="all resident", placement_kind="")
    setting = express(row, rates_of(stated))
    assert isinstance(setting, Setting)
    routed = 48 * 8 * 3 * 2048 * 768 / 1e9 * 0.58
    fixed = (48 * (2048 * 128 * 72 + 4352 + 2048 * 128) + 2 * 151936 * 2048) / 1e9 * 3.2
    assert 30.5 * 0.58 / 32 < 0.6  # no penalty for a full GPU
    assert baselines.llmfit(setting) == pytest.approx(1792 / (routed + fixed))
    row, stated = read_one(tmp_path, {"gpu": ""}, placement_value="CPU only", placement_kind="")
    setting = express(row, rates_of(stated))
    assert isinstance(setting, Setting)
    assert baselines.llmfit(setting) == pytest.approx(70 / (active / 1e9) * 1.15 * 1.1 * 0.3)


def test_moe_fit_by_hand(tmp_path: Path) -> None:
    machine = {"gpu": "", "ram_gb": "64", "storage_gb_s": "4 cold"}
    cells = {"model": "GLM-5.2", "quantisation": "int4", "runtime": "colibri", "placement_value": ""}
    row, stated = read_one(tmp_path, machine, hit_rate="0.4", **cells)
    setting = express(row, rates_of(stated))
    assert isinstance(setting, Setting)
    experts = 75 * 256 * round(3 * 6144 * 2048 * 4.5 / 8)
    cached = (64e9 - 8e9) / experts
    ends = baselines.moe_fit(setting)
    assert ends is not None
    assert ends[0] == pytest.approx(4e9 / (experts * 8 / 256 * (1 - cached)))
    assert ends[1] == pytest.approx(4e9 / (experts * 8 / 256 * (1 - 1.6 * cached)))
    row, stated = read_one(tmp_path, {"storage_gb_s": "4"})
    fits = express(row, rates_of(stated))
    assert isinstance(fits, Setting)
    assert baselines.moe_fit(fits) is None  # everything fits: it says that compute decides


def test_shares_are_recovered_from_rows_that_obey_them(shipped: list[Setting]) -> None:
    problem = problem_of(shipped)
    truth = prior()[0] + 0.2 * np.sin(np.arange(len(NAMES)))
    exact = replace(problem, log_measured_s=np.log(seconds(problem, truth)))
    found, errors = fit(exact, np.full(len(problem), 1e4))
    assert (errors < prior()[1]).all()
    assert np.median(errors) < 0.01
    assert found == pytest.approx(truth, abs=0.03)
    factors = np.array([0.05, 0.2, -0.1, 0.0, 0.1, 0.1])
    rows = exact.chosen(np.arange(len(problem)) < 1)
    moved = replace(rows, log_measured_s=np.log(seconds(rows, truth, factors)))
    own = calibrate(moved, truth)
    assert np.log(seconds(moved, truth, own)) == pytest.approx(moved.log_measured_s, abs=0.05)


def test_a_row_moves_the_term_that_is_known_least(shipped: list[Setting]) -> None:
    """Errors by hand: a parameter known to .4 adds to the spread of its factor, in quadrature, and takes the blame."""
    rows = problem_of([setting for setting in shipped if setting.runtime == "llama.cpp"][:1])
    errors = np.zeros(len(NAMES))
    assert widened(rows, errors).spread == pytest.approx(rows.spread)
    errors[NAMES.index("software_llama.cpp")] = 0.4
    wider = widened(rows, errors)
    place = FACTORS.index("software")
    assert wider.spread[0, place] == pytest.approx(np.hypot(SPREAD[place], 0.4))
    assert np.delete(wider.spread, place, 1) == pytest.approx(np.delete(rows.spread, place, 1))
    slow = replace(wider, log_measured_s=np.log(seconds(wider, prior()[0])) + 0.3)
    moved, before = (calibrate(replace(slow, spread=open_.spread), prior()[0]) for open_ in (wider, rows))
    assert moved[place] > before[place] > 0
    assert moved[FACTORS.index("dram")] > before[FACTORS.index("dram")]  # less of a rate is blamed


def test_rows_of_another_kind_move_what_parts_reach_and_no_software(shipped: list[Setting]) -> None:
    rows = problem_of([setting for setting in shipped if setting.placement.kind == CPU_EXPERTS][:2])
    slow = replace(rows, log_measured_s=np.log(seconds(rows, prior()[0])) + 0.3)
    own, others = (slow.chosen(np.arange(2) == at) for at in (0, 1))
    alone = calibrate(own.chosen(np.zeros(1, np.bool_)), prior()[0], others)
    assert alone[FACTORS.index("software")] == 0
    assert alone[FACTORS.index("dram")] < -0.02
    mine = calibrate(others, prior()[0])
    assert abs(alone[FACTORS.index("dram")]) < abs(mine[FACTORS.index("dram")]) + 0.1
    vague = replace(others, spread=np.where(np.arange(len(FACTORS)) == FACTORS.index("software"), 9.0, others.spread))
    said = calibrate(own.chosen(np.zeros(1, np.bool_)), prior()[0], vague)
    assert abs(said[FACTORS.index("dram")]) < abs(alone[FACTORS.index("dram")])  # unknown software says less
    assert not calibrate(own.chosen(np.zeros(1, np.bool_)), prior()[0]).any()


def test_weights_of_sixteen_bits_are_not_unpacked_by_cores(tmp_path: Path) -> None:
    cells = {"placement_value": "--cpu-moe", "placement_kind": ""}
    machine = {"cpu": "Core i7-8700", "ram_bandwidth_gb_s": "", "ram_gb": "128"}
    terms = []
    for quantisation in ("Q4_K_M", "BF16"):
        row, stated = read_one(tmp_path, machine, quantisation=quantisation, **cells)
        setting = express(row, rates_of(stated))
        assert isinstance(setting, Setting)
        terms.append(terms_of(setting))
    assert terms[0].cores == 6
    assert np.isinf(terms[1].cores)


@pytest.mark.parametrize(
    ("storage", "stated", "rate", "known"),
    [
        ("WD_Black SN8100 2 TB", "", 14.9e9, SPECIFIED),
        ("Samsung 990 PRO Gen4", "4.88 buffered, 5.87 O_DIRECT", 5.87e9, STATED),
        ("Samsung PCIe Gen3 x4 NVMe", "", 3.2e9, SPECIFIED),
        ("4 x NVMe PCIe 4.0 RAID0", "", None, None),
        ("Samsung 990 Pro + SN850P partial mirror", "", None, None),
        ("Internal SSD", "", None, None),
        ("Samsung 980 PRO", "0 cold", 7.0e9, SPECIFIED),
    ],
)
def test_a_named_drive_has_its_datasheets_rate_where_none_is_stated(
    storage: str, stated: str, rate: float | None, known: str | None
) -> None:
    found = rates_of(StatedMachine(**machine_cells(storage=storage, storage_gb_s=stated)))
    assert (found.storage_bytes_per_s, found.storage_known) == (rate, known)


@pytest.mark.parametrize("cells", [{"other": "GPU memory 0 GB/s"}, {"gpu": "RTX 2080 (0 GB/s)"}, {"link": "0 GB/s"}])
def test_a_rate_of_zero_is_none(cells: dict[str, str]) -> None:
    found = rates_of(StatedMachine(**machine_cells(**cells)))
    assert found.gpu_bytes_per_s == 448e9
    assert found.link_bytes_per_s == 16 * 0.985e9


def test_no_row_of_a_machine_moves_its_own_prediction(shipped: list[Setting]) -> None:
    held = "web02_rtx_5080_16gb_9950x_ddr5_4800_2ch_77_gb_"
    some = [setting for setting in shipped if setting.placement.kind in (CPU_EXPERTS, RESIDENT)][::3]
    some = [s for s in shipped if s.row.machine_id == held] + [s for s in some if s.row.machine_id != held]
    changed = [
        replace(s, row=replace(s.row, decode_tok_s=3 * s.measured)) if s.row.machine_id == held else s for s in some
    ]
    moved = 0
    for before, after in zip(predict_all(some, some), predict_all(changed, changed), strict=True):
        if before.setting.row.machine_id == held:
            assert after.predicted[0] == pytest.approx(before.predicted[0], rel=1e-12)
            # Its width rests on errors of others, whose fits did see the machine's rows: a trace is left.
            assert after.interval[0] == pytest.approx(before.interval[0], rel=0.2)
        else:
            moved += abs(after.predicted[0] / before.predicted[0] - 1) > 1e-6
    assert moved > 5


def test_machines_of_one_author_with_the_same_part_are_held_out_together(shipped: list[Setting]) -> None:
    family = families(shipped)
    assert family["kekzl_5090"] == family["web07_rtx_5090"]
    assert family["web11_epyc_9175f_only"] == family["web11_rtx_pro_6000_x1_or_x2_epyc_9175f_12ch_dd"]
    assert family["web07_rtx_4080_16gb"] != family["web07_rtx_5080_16gb"]


def test_the_rtx_2080_is_predicted_within_a_quarter_without_its_row(findings: Findings) -> None:
    (found,) = [row for row in findings.tables["rows"] if row["row"] == "llmfit_rtx2080_qwen3.01"]
    assert found["rates_known"] is True
    assert found["without_a_row"] == pytest.approx(36.7, rel=0.25)


def test_the_table_by_machine_holds_every_machine_that_is_predicted(findings: Findings) -> None:
    machines = findings.tables["by_machine"]
    assert len(machines) < 100  # more would not be printed
    assert sum(int(str(row["rows"])) for row in machines) == len(findings.tables["rows"])


def test_what_the_corpus_reaches(findings: Findings) -> None:
    """The committed report's figures; better than both baselines on the same rows."""
    overall = {str(row["estimate"]): row for row in findings.tables["overall"]}
    without, one, two = (
        overall[f"this model, {name}"] for name in ("without a row", "after one row", "after two rows")
    )

    def median(row: dict[str, object]) -> float:
        value = row["median_absolute_error_percent"]
        assert isinstance(value, float)
        return value

    assert int(str(without["rows"])) >= 55
    assert median(without) < 20
    assert float(str(without["share_within_0.4"])) > 0.8
    assert median(one) < 8
    assert median(two) < 5
    assert median(overall["this model, after one row, each of a group in turn (pairs)"]) < 9
    blind, other = (
        overall[f"this model, {name} (pairs)"]
        for name in (
            "without a row, machines with rows of another kind", "after one row of another kind or build, each in turn"
        )
    )  # fmt: skip
    assert median(other) < 0.9 * median(blind)
    for row in (without, one, two):
        assert 0.8 < float(str(row["share_in_90_percent_interval"])) <= 0.97
    for name in ("bytes over bandwidth", "llmfit"):
        assert median(without) < median(overall[f"{name}, the same rows"])
    order = {str(row["estimate"]): row for row in findings.tables["order"]}
    assert float(str(order["this model"]["share"])) > 0.9
    assert sum(int(str(row["rows"])) for row in findings.tables["left_out"]) + len(findings.tables["rows"]) == 428


def test_the_committed_report_is_what_the_command_writes(findings: Findings) -> None:
    from sim.validation.report import table_csv

    for name in ("overall", "by_placement", "order", "left_out"):
        assert (SHIPPED / f"{name}.csv").read_text().splitlines()[0] == table_csv(findings.tables[name]).splitlines()[0]
    stated = (SHIPPED / "rows.csv").read_text().splitlines()
    assert len(stated) == len(findings.tables["rows"]) + 1
    median = next(row for row in findings.tables["overall"])["median_absolute_error_percent"]
    committed = (SHIPPED / "overall.csv").read_text().splitlines()[1].split(",")[4]
    assert float(committed) == pytest.approx(median, rel=0.02)


def test_series_of_unstated_placement_are_worth_their_shape_alone(findings: Findings) -> None:
    rows = findings.tables["rows_of_shapes"]
    predicted = {str(row["row"]) for row in findings.tables["rows"]}
    left_out = {str(row["row"]) for row in findings.tables["rows_left_out"]}
    assert {str(row["row"]) for row in rows} <= left_out - predicted
    assert {"tf_76.01", "kt_m21_9355.01"} <= {str(row["row"]) for row in rows}
    assert not any(row["rates_known"] for row in rows)
    one, _ = findings.tables["shape_along_the_context"]
    assert int(str(one["rows"])) == sum(row["after_one_row"] is not None for row in rows) > 20
    assert float(str(one["median_absolute_error_percent"])) < 15


def test_another_folder_is_predicted_with_what_the_shipped_one_teaches(tmp_path: Path) -> None:
    rows = [
        measurement_cells(row_id="a", machine_id="new", decode_tok_s="40", placement_value="-ncmoe 30"),
        measurement_cells(row_id="b", machine_id="new", decode_tok_s="34-36", placement_value="--cpu-moe"),
        measurement_cells(row_id="c", machine_id="new", decode_tok_s="~", batch=""),
        measurement_cells(row_id="d", machine_id="odd", decode_tok_s="12 (once)", hit_rate="up to 0.9"),
    ]
    machines = [
        machine_cells(
            machine_id="new", gpu="RTX 4080", cpu="Ryzen 9 7950X", ram_bandwidth_gb_s="", ram_type="DDR5-6000"
        ),
        machine_cells(machine_id="odd", gpu="an unheard-of card", gpu_count="?", cpu="", ram_bandwidth_gb_s="fast"),
    ]
    write_corpus(tmp_path, rows, machines)
    found = predict_published(PublishedConfig(name="corpus", path=str(tmp_path)))
    assert [row["row"] for row in found.tables["rows"]] == ["a", "b"]
    assert {str(row["reason"]) for row in found.tables["left_out"]} == {
        "no decode rate is stated",
        "a GPU of unknown rate",
    }
    first, second = found.tables["rows"]
    assert first["rates_known"] is True
    assert 20 < float(str(first["without_a_row"])) < 90
    assert first["after_one_row"] is None
    assert second["after_one_row"] is not None
