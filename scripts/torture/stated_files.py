"""Files that state figures, good ones beside their readers: sizes of models, published speeds, cards, answers."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import sim.machine.model
from tests.sim.model_files.released_configs import CONFIGS
from tests.sim.model_files.small_gguf import FIELDS, TENSORS, gguf


def model_config(name: str) -> Callable[[Path], None]:
    """The config.json of a released model."""

    def make(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(CONFIGS[name], indent=1))

    return make


def model_gguf(folder: Path) -> None:
    gguf(folder / "a.gguf", FIELDS, TENSORS)


def read_model_config(folder: Path) -> None:
    from sim.model_files.config_json import read_config_json

    _prove_sizes(read_config_json(folder / "config.json"))


def read_model_gguf(folder: Path) -> None:
    from sim.model_files.gguf_header import read_gguf

    _prove_sizes(read_gguf(folder / "a.gguf"))


def _prove_sizes(values: dict[str, Any]) -> None:
    """What is read makes sizes that a replay can work with."""
    found = sim.machine.model.geometry(sim.machine.model.dimensions_from_config(values))
    sizes = [*(found.expert_bytes or ()), *(found.attention_bytes or ()), *(found.shared_bytes or ())]
    sizes += [found.other_bytes or 0, found.kv_bytes_per_token or 0]
    assert len(found.expert_bytes or ()) == found.num_layers and min(sizes) >= 0 and max(sizes) < 2**62


def corpus(folder: Path) -> None:
    """Every twelfth row of the shipped corpus, and all machines."""
    from sim.validation.published.corpus.parts import SHIPPED

    lines = (SHIPPED / "corpus.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "corpus.csv").write_text("".join([lines[0], *lines[1::12]]), encoding="utf-8")
    (folder / "machines.csv").write_bytes((SHIPPED / "machines.csv").read_bytes())


def read_published(folder: Path) -> None:
    """Every row that can be expressed has a time that is finite and above zero."""
    from sim.validation.published.corpus.estimate import prior, problem_of, seconds
    from sim.validation.published.corpus.predict import settings_of
    from sim.validation.published.corpus.tables import read_corpus

    settings, _ = settings_of(read_corpus(folder))
    times = seconds(problem_of(settings), prior()[0])
    assert ((times > 0) & np.isfinite(times)).all()


def wheel(folder: Path) -> None:
    """Two kernels of one GPU, as in the wheel of aiconfigurator-core."""
    import pandas as pd

    row = {"kernel_source": "fused", "moe_dtype": "bfloat16", "num_tokens": 1, "hidden_size": 2048, "inter_size": 768}
    row |= {"topk": 8, "num_experts": 128, "moe_tp_size": 1, "moe_ep_size": 1, "distribution": "balanced"}
    table = io.BytesIO()
    pd.DataFrame([row | {"latency": 0.06}, row | {"num_tokens": 64, "latency": 0.3}]).to_parquet(table)
    with zipfile.ZipFile(folder / "a.whl", "w") as made:
        made.writestr(
            "aiconfigurator_core/systems/a100_sxm.yaml", "gpu: {mem_bw: 2.0e+12, bfloat16_tc_flops: 3.0e+14}\n"
        )
        made.writestr("aiconfigurator_core/systems/data/a100_sxm/moe/vllm/0.14.0/moe_perf.parquet", table.getvalue())


def read_a_wheel(folder: Path) -> None:
    """Every kernel that is taken has a time that is finite and above zero."""
    import numpy as np

    from sim.validation.published.aiconfigurator.predict import kernel_s
    from sim.validation.published.aiconfigurator.wheel import read_wheel

    for kernels in read_wheel(folder / "a.whl"):
        times = kernel_s(kernels)
        assert ((times > 0) & np.isfinite(times)).all()


def own_row(folder: Path) -> None:
    lines = ["machine_id: rtx3060_ddr4", "model: gpt_oss_20b", "runtime: llama.cpp", "flags: -ngl 99 --n-cpu-moe 10"]
    lines += ["context: 4096", "decode_tok_s: 30.2", "remarks: by hand"]
    (folder / "row.yaml").write_text("\n".join(lines) + "\n")


def own_rows(folder: Path) -> None:
    lines = ["machine_id,model,quantisation,runtime,placement_value,hit_rate,decode_tok_s"]
    lines += [f"rtx3060_ddr4,Qwen3-30B-A3B,Q4_K_M,llama.cpp,{value},,{20 + i}" for i, value in enumerate(PLACES)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")


PLACES = ("exps=CPU", "--n-cpu-moe 30", "CPU only", "50 % of experts on GPU")


def read_own_row(folder: Path) -> None:
    _read_measured(folder / "row.yaml")


def read_own_rows(folder: Path) -> None:
    _read_measured(folder / "rows.csv")


def _read_measured(path: Path) -> None:
    """Every row that is taken has a forecast that is finite and above zero."""
    from sim.forecast.own_rows import read_rows, setting_of
    from sim.forecast.predict import forecast
    from sim.forecast.read_machine import read_machine
    from sim.forecast.shipped import shares_of, shipped_parameters

    for own in read_rows(path):
        machine = read_machine(own.row.machine_id, shares_of(shipped_parameters()))
        found = forecast(setting_of(own, machine), ())
        assert 0 < found.low <= found.tokens_per_s <= found.high < float("inf")


def curve(folder: Path) -> None:
    lines = ["model,num_layers,num_experts,top_k,expert_bytes,resident_fraction,decode_hit_rate,kind,source"]
    lines += [f"small,2,8,2,100,{share},{rate},LRU,by hand" for share, rate in ((0.25, 0.4), (0.5, 0.7), (1.0, 0.99))]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")


def read_a_curve(folder: Path) -> None:
    from sim.cards.make import read_curve

    card = read_curve(folder / "a.csv", "small")
    assert card.published is not None and card.generator.again <= 1


def read_a_card(folder: Path) -> None:
    """A success draws a trace that is valid, the same as before from the same card."""
    from sim.cards.card import card_from, card_text, read_card
    from sim.cards.synthesis import Wish, synthesise
    from sim.plain_yaml import read_mapping
    from traces.format.validation import validate

    card = read_card(folder / "a.yaml")
    validate(synthesise(card, Wish("a", requests=1, tokens=2, prompt_len=1, layers=2)))
    (folder / "again.yaml").write_text(card_text(card))
    assert card_from(read_mapping(folder / "again.yaml", "card")) == card


def answers_of_a_tool(folder: Path) -> None:
    """Right answers to two conformance vectors."""
    from sim.conformance.judge import vectors

    found = {name: one["answers"] for name, one in vectors().items() if name in ("lru", "cpu_split")}
    (folder / "a.json").write_text(json.dumps({"tool": "mine", "answers": found}, indent=1))


def read_answers(folder: Path) -> None:
    """A verdict on every vector."""
    from sim.conformance.judge import RIGHT, UNANSWERED, WRONG, judge, vectors
    from sim.results.json_files import read_json

    verdicts = judge(read_json(folder / "a.json"))
    assert {one.name for one in verdicts} == {*vectors()}
    assert {one.outcome for one in verdicts} <= {RIGHT, UNANSWERED, WRONG}


VALIDATION = ("plan.json", "runs.json", "tokens.parquet")


def validation(folder: Path) -> None:
    """The shipped raw data of real runs on a CPU."""
    from sim.paths import ROOT

    for name in VALIDATION:
        (folder / name).write_bytes((ROOT / "docs" / "validation" / "cpu" / name).read_bytes())


def read_validation(folder: Path) -> None:
    """What `python -m sim validate measure=false` analyses, read."""
    from sim.results.json_files import read_json
    from sim.validation.plan import plan_from_json
    from sim.validation.raw_runs import gathered

    plan = plan_from_json(read_json(folder / "plan.json").get("plan"), folder / "plan.json")
    names = {setting.name for setting in (*plan.settings, *plan.calibration)}
    assert names and all(isinstance(run.setting, str) and len(run.columns) for run in gathered(folder))


def published_runs(folder: Path) -> None:
    from scripts.torture.jobs import published_tables

    published_tables(folder)


def read_published_runs(folder: Path) -> None:
    from sim.validation.published.mixtral_offloading.table import read_runs

    assert read_runs(folder / "measured.csv")


RULE = '''"""A rule of one's own."""

from dataclasses import dataclass

from policies.base import Eviction, Vector, require
from policies.state import State


@dataclass(frozen=True)
class Mine(Eviction):
    """Evict the expert that was used the longest time ago, times a weight."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        require("policy.eviction.weight", self.weight, 0.0, 1e6)

    def touch(self, state: State, memory: Vector) -> None:
        for i in range(state.num_executed):
            expert = state.executed[i]
            state.priority[state.layer, expert] = self.weight * state.now
'''


def user_rule(folder: Path) -> None:
    (folder / "rule.py").write_text(RULE)


def read_user_rule(folder: Path) -> None:
    """A file of a rule, loaded and tried in Python on a small trace as before a run."""
    from dataclasses import replace

    from omegaconf import OmegaConf

    from scripts.torture.inputs import small_trace
    from sim.assembly.build import make_part
    from sim.assembly.catalogue import load_policy
    from sim.assembly.replay import DeviceSetup
    from sim.assembly.trial import try_rules
    from sim.config import RunConfig
    from sim.machine.hardware import load_hardware
    from sim.machine.machine import Machine

    part = make_part("eviction", OmegaConf.create({"_target_": str(folder / "rule.py")}))
    policy = replace(load_policy("lru"), eviction=part)
    setup = DeviceSetup(policy, Machine(load_hardware("s1_rtx3080ti")), run=RunConfig(engine="compiled"))
    try_rules(small_trace(0, requests=2), setup, None, False, None)
