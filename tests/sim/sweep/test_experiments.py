"""Every file of conf/experiment names its command, composes, and its first job runs."""

from itertools import product

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from sim.assembly.compose import compose_run
from sim.paths import CONF
from sim.run.execute import execute
from sim.sweep.grid import expand
from sim.sweep.key import run_key

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
needs_optuna = pytest.mark.skipif(
    not any("Optuna" in plugin.__name__ for plugin in Plugins.instance().discover()),
    reason="the extra `sweep` (hydra-optuna-sweeper) is not installed",
)


def composed(name: str, *overrides: str, whole: bool = True):
    return compose_run(f"+experiment={name}", *overrides, with_hydra=whole)


def first_values(params) -> list[str]:
    """The overrides of a sweep's first job."""
    found = []
    for key, values in OmegaConf.to_container(params).items():
        first = str(values).removeprefix("choice(").removeprefix("interval(").removeprefix("range(").rstrip(")")
        found.append(f"{key}={first if first.startswith('[') is False else first.partition(']')[0] + ']'}")
    return [word if "=[" in word else word.split(",")[0] for word in found]


def test_the_experiments_of_the_study_are_all_there():
    assert set(NAMES) >= {
        "capacity", "alpha", "ablation", "link", "batch", "prefetch_depth", "hardware", "domains", "pareto",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_optuna) if n == "pareto" else n for n in NAMES])
def test_the_first_line_is_the_command_and_the_first_job_runs(name, tmp_path):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert text.splitlines()[0] == "# @package _global_"  # Hydra reads it only there
    assert text.splitlines()[1] == f"# python -m sim run -m +experiment={name}"
    config = composed(name)
    assert config.sweep.name == name and config.engine.name == "compiled"
    words = first_values(config.hydra.sweeper.params)
    assert words
    job = composed(name, *words, "trace.requests=4", "trace.fit_requests=null", whole=False)
    runs = list(expand(job, words))
    assert len({run_key(OmegaConf.to_container(run.config, resolve=True), "") for run in runs}) == len(runs)
    if name == "four_systems":  # its own test runs it
        return
    assert execute(runs[0].config, tmp_path).metrics["tpot_s.mean"] > 0
    assert (tmp_path / "metrics.json").is_file() and (tmp_path / "blocks.parquet").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "pareto"])
def test_every_job_of_an_experiment_composes(name):
    params = OmegaConf.to_container(composed(name).hydra.sweeper.params)
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    axes = [
        [f"{one.key_or_group}={value}" for value in one.sweep_string_iterator()] if one.is_sweep_override()
        else [f"{one.key_or_group}={one.value()}"]
        for one in parsed
    ]  # fmt: skip
    jobs = list(product(*axes))
    for words in {*jobs[:1], *jobs[-1:], *jobs[:: max(1, len(jobs) // 6)]}:
        config = composed(name, *words)
        assert config.policy.name
