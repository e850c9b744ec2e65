"""Runtimes: every shipped figure has a source, what is no runtime is refused, and a policy's own one is found."""

from dataclasses import fields
from typing import Any

import pytest
from omegaconf import OmegaConf

from sim.assembly.build import build
from sim.assembly.compose import compose_run
from sim.machine.figures import LABELS, Figures, settings_of
from sim.machine.hardware import Hardware, load_hardware
from sim.machine.machine import PARAMETERS, Machine
from sim.machine.runtime import RUNTIME_FOLDER, RUNTIME_PARAMETERS, Runtime, load_runtime, runtime_names
from sim.machine.uncertainty import drawn_machine
from sim.paths import CONF, yaml_names
from traces.errors import UserError

ASKED_FOR = (
    "smoe_2026_04", "smoe_2026_07", "eager_hf", "cuda_graphs", "llama_cpp", "ktransformers", "mixtral_offloading",
    "ideal",
)  # fmt: skip


def test_the_shipped_runtimes() -> None:
    assert set(ASKED_FOR) <= set(runtime_names())


@pytest.mark.parametrize("name", runtime_names())
def test_every_shipped_figure_has_a_source(name: str) -> None:
    runtime = load_runtime(name)
    assert runtime.name == name
    stated = {f for f in (*RUNTIME_PARAMETERS, *settings_of(Runtime)) if getattr(runtime, f) is not None}
    assert stated == runtime.sources.keys()
    weakest = max(LABELS.index(source.split(":")[0]) for source in runtime.sources.values())
    assert runtime.label == LABELS[weakest]


@pytest.mark.parametrize("name", [name for name in runtime_names() if name != "ideal"])
def test_the_host_cost_of_a_shipped_runtime_is_known_to_a_factor_only(name: str) -> None:
    runtime = load_runtime(name)
    for figure in ("host_s_per_layer", "decision_s_per_layer"):
        assert not getattr(runtime, figure) or runtime.uncertainty[figure] >= 0.5


def test_the_ideal_runtime_costs_nothing() -> None:
    ideal = load_runtime("ideal")
    assert not any(
        getattr(ideal, name) for name, p in RUNTIME_PARAMETERS.items() if p.parts and name.endswith(("_s", "per_layer"))
    )
    assert ideal.gpu_memory_share == 1.0


def test_no_figure_stands_in_both_files() -> None:
    common = {f.name for f in fields(Figures)}
    assert {f.name for f in fields(Hardware)} & {f.name for f in fields(Runtime)} == common


def test_the_own_group_lists_every_setting_of_a_runtime() -> None:
    stated = OmegaConf.load(RUNTIME_FOLDER / "own.yaml")
    assert set(stated) == {"name", *RUNTIME_PARAMETERS, *settings_of(Runtime)}
    assert all(value is None for key, value in stated.items() if key != "name")


def test_every_runtime_that_a_policy_names_is_shipped() -> None:
    named = {
        name: OmegaConf.load(CONF / "policy" / f"{name}.yaml").get("runtime") for name in yaml_names(CONF / "policy")
    }
    assert {runtime for runtime in named.values() if runtime} <= set(runtime_names())
    assert named["llama_cpp"] == "llama_cpp"
    assert named["importance"] == "smoe_2026_07"


def test_a_policy_runs_on_its_own_runtime_or_on_the_same_as_all() -> None:
    def runtime(*words: str) -> Runtime:
        return build(compose_run("trace.requests=1", *words)).runtime

    assert runtime("policy=fiddler", "trace.fit_requests=4").name == "smoe_2026_07"
    own = runtime("policy=fiddler", "trace.fit_requests=4", "runtime=own")
    assert own.name == "eager_hf"
    assert runtime("policy=lru", "runtime=own").name == "smoe_2026_07"
    changed = runtime("policy=fiddler", "trace.fit_requests=4", "runtime=own", "runtime.host_s_per_layer=0")
    assert changed.host_s_per_layer == 0 and changed.launch_s == own.launch_s
    assert changed.sources["host_s_per_layer"] == "ESTIMATED: set on the command line"
    assert "host_s_per_layer" not in changed.uncertainty


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"memory": "cached"}, "memory='cached': must be one of pinned, pageable, staged"),
        ({"memory": 3}, "memory=3: must be one of"),
        ({"cuda_graphs": "yes"}, "cuda_graphs='yes': must be true or false"),
        ({"run_on_arrival": 1}, "run_on_arrival=1: must be true or false"),
        ({"gpu_memory_share": 1.2}, "gpu_memory_share=1.2: must be above 0 and at most 1"),
        ({"gpu_memory_share": 0}, "gpu_memory_share=0: must be above 0 and at most 1"),
        ({"staging_slots": 0}, "staging_slots=0: must be at least 1"),
        ({"kernels_per_layer": 2.5}, "kernels_per_layer=2.5 must be a whole number"),
        ({"sync_s": None}, "sync_s=None must be a finite number"),
        ({"sync_s": True}, "sync_s=True must be a finite number"),
        ({"cpu_threads": 0}, "cpu_threads=0: must be at least 1"),
        ({"link_bytes_per_s": 1e9}, "link_bytes_per_s is not a field of a runtime file"),
        ({"uncertainty": {"memory": 0.1}}, "uncertainty.memory names no figure"),
        ({"sources": {"memory": "read"}}, "must begin with one of MEASURED"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        Runtime.from_config({"name": "plain", **change})
    assert sentence in str(error.value)
    assert "runtime plain" in str(error.value)


def test_an_unknown_runtime_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"runtime=vllm is not known: choose one of .*eager_hf"):
        load_runtime("vllm")
    with pytest.raises(UserError, match=r"runtime=own stands for the one that a policy names"):
        load_runtime("own")


def test_plausible_machines_scatter_as_their_files_state() -> None:
    machine = Machine(
        Hardware("h", 10**9, 1e11, 1e13, 1e-6, 1e10, uncertainty={"link_bytes_per_s": 0.1}),
        Runtime("r", host_s_per_layer=1e-3, gpu_memory_share=0.9,
                uncertainty={"host_s_per_layer": 1.0, "gpu_memory_share": 0.5}),
    )  # fmt: skip
    drawn = [drawn_machine(machine, 0, number) for number in range(400)]
    hosts = sorted(m.runtime.host_s_per_layer for m in drawn)
    assert 0.8e-3 < hosts[200] < 1.25e-3  # the stated value is the median
    assert 2.0 < hosts[336] / hosts[200] < 2.7  # exp(sqrt(log 2)) = 2.30
    links = [m.hardware.link_bytes_per_s for m in drawn]
    assert 0.85e9 < (max(links) - min(links)) / 6 < 1.4e9
    assert max(m.runtime.gpu_memory_share for m in drawn) == 1.0
    assert {m.hardware.gpu_flops_per_s for m in drawn} == {1e13}
    assert drawn[7] == drawn_machine(machine, 0, 7) != drawn_machine(machine, 1, 7)
    assert set(machine.uncertainty) <= set(PARAMETERS)


def test_figures_are_changed_in_the_file_that_holds_them() -> None:
    machine = Machine(load_hardware("rtx4090"), load_runtime("eager_hf"))
    changed = machine.with_figures({"link_bytes_per_s": 1e9, "host_s_per_layer": 0.0, "memory": "pageable"})
    assert changed.hardware.link_bytes_per_s == 1e9
    assert (changed.runtime.host_s_per_layer, changed.runtime.memory) == (0.0, "pageable")
    assert changed.figure("memory") == "pageable" and changed.figure("link_bytes_per_s") == 1e9
    with pytest.raises(TypeError):
        machine.with_figures({"speed": 1.0})
