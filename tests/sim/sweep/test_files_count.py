"""Every file that a configuration names counts by content: edit it, and another run has to be made."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from sim.__main__ import main
from sim.assembly.compose import compose_run
from sim.engine.decision.device import BASES
from sim.group_files import SET
from sim.paths import CONF
from sim.sweep import key as sweep_key
from sim.sweep.jobs import place_of
from tests.support.random_traces import random_trace
from traces.format.files import write_trace

PARTS = tuple(f"policy/{part}" for part in BASES)
HELPER = "from my_helper import A\nfrom . import nothing\n"


@pytest.fixture
def trace_path(tmp_path):
    path = tmp_path / "t.safetensors"
    write_trace(path, random_trace(0, prompts=(4,) * 6, decodes=(6,) * 6, expert_bytes=10**7))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def run(*words):
    GlobalHydra.instance().clear()
    return main(["run", "policy=lru", "engine=compiled", *words])


GROUPS = [
    group for group in ("hardware", "model", "runtime", "system", "trace", "policy", *PARTS) if (CONF / group).is_dir()
]


def numbered(path: Path) -> tuple[str, str]:
    """A file of a group, and the same with one value changed; of one without a number a switch or one more."""
    text = path.read_text().replace("${policy.alpha}", "0.35").replace("${seed}", "0")
    edited = re.sub(
        r"(?m)^(?!gate_slope)(\w+: )(\d[\d.]*(?:e-?\d+)?)", lambda m: f"{m[1]}{float(m[2]) * 2 + 1:g}", text, count=1
    )
    edited = edited if edited != text else text.replace("false", "true")
    return text, edited if edited != text else f"{text}\nmore: 1\n"


@pytest.mark.parametrize("group", GROUPS)
def test_a_file_in_place_of_any_group_counts_by_content(group, trace_path):
    texts = numbered(min((CONF / group).glob("*.yaml")))
    words = [] if group == "trace" else [f"trace.path={trace_path}"]
    keys = []
    for text in (*texts, texts[0]):
        Path("mine.yaml").write_text(text)
        keys.append(place_of(compose_run(*words, f"{group}=mine.yaml"), Path("x")).key)
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("weights", {"policy": {"prediction": {"checkpoint": "weights"}}}),
        ("table.csv", {"policy": {"eviction": {"_target_": "my_rule.Mine", "table": "table.csv"}}}),
        ("table", {"policy": {"eviction": {"_target_": "my_rule.Mine", "inner": {"of": ["table"]}}}}),
        ("my_rule.py", {"policy": {"eviction": {"_target_": "my_rule.Mine"}}}),
        ("my_helper.py", {"policy": {"eviction": {"_target_": "my_rule.Mine"}}}),
        ("inner/deep.py", {"policy": {"eviction": {"_target_": "inner.rule.Mine"}}}),
        ("inner/__init__.py", {"policy": {"eviction": {"_target_": "inner.rule.Mine"}}}),
        ("my_helper.py", {"policy": {"prediction": {"_target_": "inner.rule.Mine"}}}),
        ("card.json", {"system": {"name": "mine", "card": "./card.json"}}),
        ("grid/a.csv", {"cache": {"grid": ["grid/a.csv"]}}),
    ],
)
def test_files_at_any_depth_count_by_content(file, config):
    Path("inner").mkdir()
    Path("grid").mkdir()
    for path, text in {
        "my_rule.py": HELPER, "my_helper.py": "A = 1\n", "inner/__init__.py": "", "inner/deep.py": "",
        "inner/rule.py": "def f():\n    from .deep import g\n    import my_helper\n",
    }.items():  # fmt: skip
        Path(path).write_text(text)

    def key(text):
        Path(file).write_text(text)
        return sweep_key.run_key(config, "")

    assert key("# 1\nA = 1") == key("# 1\nA = 1") != key("# 2\nA = 2")


@pytest.mark.parametrize(("folder", "file"), [("MODEL_FOLDER", "mixtral_8x7b"), ("RUNTIME_FOLDER", "llama_cpp")])
def test_what_is_found_by_name_counts(folder, file, tmp_path, monkeypatch):
    """The sizes of model=auto and of systems' models, and the runtime that a policy names."""
    for name in ("MODEL_FOLDER", "RUNTIME_FOLDER"):
        shutil.copytree(getattr(sweep_key, name), tmp_path / name)
        monkeypatch.setattr(sweep_key, name, tmp_path / name)
    monkeypatch.setattr(sweep_key, "ROOT", tmp_path)
    monkeypatch.setattr(sweep_key, "deciding_sources", dict)
    version = sweep_key.code_version.__wrapped__
    before = version()
    (tmp_path / folder / f"{file}.yaml").write_text("name: other")
    assert version() != before


SURE: dict[str, float] = {}
UNSURE = {"link_bytes_per_s": 0.5, "gpu_memory_bytes_per_s": 0.5}


def machine_text(uncertainty: dict[str, float], **figures: float) -> str:
    """The file of a shipped machine with these figures, and no other uncertainty."""
    values = yaml.safe_load((CONF / "hardware" / "s1_rtx3080ti.yaml").read_text())
    return yaml.safe_dump(values | figures | {"uncertainty": uncertainty})


def outputs(folder: Path, capsys) -> dict[str, str]:
    """Everything that a person sees of runs: summary, tables, comparison, report."""
    capsys.readouterr()
    assert main(["compare", str(folder), f"out={folder / 'pairs.csv'}"]) == 0
    assert main(["report", str(folder)]) == 0
    capsys.readouterr()
    found = {"pairs": (folder / "pairs.csv").read_text(), "report": (folder / "report.html").read_text()}
    for run_folder in sorted(path.parent for path in folder.rglob("metrics.json")):
        found[f"metrics {run_folder.name}"] = (run_folder / "metrics.json").read_text()
        provenance = json.loads((run_folder / "provenance.json").read_text())
        found[f"machine {run_folder.name}"] = json.dumps([provenance["config"]["hardware"], provenance["hardware"]])
    return found


@pytest.mark.slow
def test_a_file_and_a_shipped_group_give_the_same_everywhere(trace_path, tmp_path, capsys, monkeypatch):
    """Uncertainty included: every output of the two, once the path and times are taken out."""
    text = machine_text(UNSURE)
    shipped = tmp_path / "search"
    (shipped / "hardware").mkdir(parents=True)
    (shipped / "hardware" / "of_a_group.yaml").write_text(text)
    Path("mine.yaml").write_text(text)
    chosen = {"file": ["hardware=mine.yaml"], "group": ["hardware=of_a_group", f"--config-dir={shipped}"]}
    found = {}
    for name, words in chosen.items():
        folder = tmp_path / name / "same"
        GlobalHydra.instance().clear()
        assert run("-m", "policy=lru,all_resident", f"trace.path={trace_path}",
                   f"hydra.sweep.dir={folder}", *words) == 0  # fmt: skip
        summary = tmp_path / name / "one"
        GlobalHydra.instance().clear()
        capsys.readouterr()
        assert run(f"trace.path={trace_path}", f"hydra.run.dir={summary}", *words) == 0
        printed = capsys.readouterr().out.replace(str(summary), "")
        written = {key: text.replace(str(folder), "") for key, text in outputs(folder, capsys).items()}
        found[name] = written | {"summary": printed}
    assert found["file"].keys() == found["group"].keys()
    for key in found["file"]:
        one, other = (
            re.sub(r" ?--config-dir=\S+", "", found[name][key]).replace("mine.yaml", "of_a_group") for name in found
        )
        if key == "report":  # the command to repeat it names the choice
            one, other = (page.partition('id="again"')[0] for page in (one, other))
            assert "gpu_memory_bytes_per_s" in one and "launch_s" in one  # the machine and the software on it
        assert one == other, key


@pytest.mark.slow
def test_uncertainty_in_a_file_makes_a_difference_uncertain(trace_path, tmp_path, capsys):
    p_values = []
    for name, uncertainty in (("sure", SURE), ("unsure", UNSURE)):
        Path("mine.yaml").write_text(machine_text(uncertainty))
        assert run("-m", "policy=lru,all_resident", f"trace.path={trace_path}", "hardware=mine.yaml",
                   f"hydra.sweep.dir={tmp_path / name}") == 0  # fmt: skip
        outputs(tmp_path / name, capsys)
        p_values.append(float(pd.read_csv(tmp_path / name / "pairs.csv")["p"].iloc[0]))
    assert p_values[1] > 2 * p_values[0]


@pytest.mark.slow
def test_editing_a_machine_repeats_the_sweep_and_keeps_the_two_apart(trace_path, tmp_path, capsys):
    folder = tmp_path / "sweep"
    for rate in (12e9, 1e9):
        Path("mine.yaml").write_text(machine_text(SURE, link_bytes_per_s=rate))
        assert run("-m", "policy=lru", f"trace.path={trace_path}", "hardware=mine.yaml",
                   f"hydra.sweep.dir={folder}") == 0  # fmt: skip
    table = pd.read_parquet(folder / "results.parquet")
    assert len(table) == 2 and table["tpot_s.mean"].nunique() == 2
    from sim.results.table import collect

    kept = collect(folder)
    assert kept["conditions"].nunique() == 2
    assert sorted(kept["series"]) == [
        "lru hardware.link_bytes_per_s=1000000000.0", "lru hardware.link_bytes_per_s=12000000000.0",
    ]  # fmt: skip
    for path in sorted(folder.glob("lru_*/provenance.json")):
        hardware = json.loads(path.read_text())["config"]["hardware"]
        assert hardware["link_bytes_per_s"] in (12e9, 1e9) and hardware["sources"]["link_bytes_per_s"]


@pytest.mark.parametrize("choice", ["mine.yaml", "s1_rtx3080ti"])
def test_a_figure_of_the_command_line_has_no_longer_the_source_of_the_file(choice):
    text = machine_text(UNSURE)
    Path("mine.yaml").write_text(text)
    plain = yaml.safe_load(text)
    words = (f"hardware={choice}", "hardware.link_bytes_per_s=1e9", "hardware.link_latency_s=0")
    hardware = compose_run(*words).hardware
    assert hardware.link_bytes_per_s == 1e9
    assert {name for name in hardware.sources if hardware.sources[name] == SET} == {
        "link_bytes_per_s",
        "link_latency_s",
    }
    assert SET.endswith(": set on the command line") and hardware.label == SET.partition(":")[0]
    assert {**hardware.sources, "link_bytes_per_s": 0, "link_latency_s": 0} == {
        **plain["sources"], "link_bytes_per_s": 0, "link_latency_s": 0,
    }  # fmt: skip
    if choice.endswith(".yaml"):
        assert dict(hardware.uncertainty) == {"gpu_memory_bytes_per_s": 0.5}
    own = compose_run(
        f"hardware={choice}", "hardware.link_latency_s=0", "hardware.sources.link_latency_s='MEASURED: by me'"
    ).hardware
    assert own.sources.link_latency_s == "MEASURED: by me"


@pytest.mark.slow
def test_sweeps_over_files_shipped_machines_and_figures(trace_path, tmp_path):
    Path("mine.yaml").write_text((CONF / "hardware" / "rtx4090.yaml").read_text().replace("rtx4090", "mine"))
    words = (f"trace.path={trace_path}", f"hydra.sweep.dir={tmp_path / 's'}")
    assert run("-m", "hardware=mine.yaml,rtx4090", "hardware.link_bytes_per_s=1e9,2e9", *words) == 0
    assert run("-m", "hardware=mine.yaml", "+sweep.grid.hardware.link_latency_s=[0,1e-3]", *words) == 0
    found = [json.loads(path.read_text()) for path in (tmp_path / "s").glob("lru_*/provenance.json")]
    machines = [one["config"]["hardware"] for one in found]
    assert sorted((one["name"], one["link_bytes_per_s"], one["link_latency_s"]) for one in machines) == [
        ("mine", 1e9, 1.3e-6), ("mine", 2e9, 1.3e-6), ("mine", 26.49e9, 0), ("mine", 26.49e9, 1e-3),
        ("rtx4090", 1e9, 1.3e-6), ("rtx4090", 2e9, 1.3e-6),
    ]  # fmt: skip
    for one in machines:
        figure = "link_latency_s" if one["link_bytes_per_s"] == 26.49e9 else "link_bytes_per_s"
        assert [name for name, source in one["sources"].items() if source == SET] == [figure]


@pytest.mark.parametrize("group", ["hardware", "model", "policy/eviction", "trace"])
@pytest.mark.parametrize(
    "text", ["a: ${oc.env:HOME}", "a: \\${oc.env:HOME}", "a: ${hydra:runtime.cwd}", "a: ${now:%Y}", "a: ${", "a: $${x}"]
)
def test_nothing_in_a_file_is_interpolated(group, text):
    Path("mine.yaml").write_text(text)
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(compose_run(f"{group}=mine.yaml"), resolve=True)
    for name in group.split("/"):
        found = found[name]
    assert found["a"] == text.removeprefix("a: ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["hardware=none.yaml"], "hardware=none.yaml: the file none.yaml: there is no such file"),
        (["hardware=folder.yaml"], "folder.yaml is a folder: must be a file"),
        (["hardware=list.yaml"], "must hold a list of `field: value` lines"),
        (["hardware=bomb.yaml"], "once its aliases are written out"),
        (["policy=bomb.yaml"], "once its aliases are written out"),
        (["hardware=rtx4090,bomb.yaml", "-m"], "once its aliases are written out"),
    ],
)
def test_files_that_are_no_choice_are_one_sentence(words, sentence, capsys):
    Path("folder.yaml").mkdir()
    Path("list.yaml").write_text("- 1")
    levels = ["a: &a0 [x]", *(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40))]
    Path("bomb.yaml").write_text("\n".join(levels))
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1
    assert not Path("outputs").exists()
