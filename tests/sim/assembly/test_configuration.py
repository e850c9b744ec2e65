"""Every yaml composes, becomes objects and runs; wrong knobs end in one sentence."""

from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sim.assembly.build import build
from sim.assembly.catalogue import load_part
from sim.assembly.compose import compose_run
from sim.machine.hardware import load_hardware
from sim.metrics.step_table import StepTable
from sim.paths import CONF
from tests.support.random_traces import random_trace
from tests.support.small_predictors import KINDS, untrained
from traces.errors import UserError
from traces.format.files import write_trace


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def run_with(policy: str) -> list[str]:
    """The overrides that a system's yaml asks for, less those that the small trace has no room for."""
    lines = (CONF / "policy" / f"{policy}.yaml").read_text().splitlines()
    words = next((line.split("(")[0].split()[3:] for line in lines if line.startswith("# Run with: ")), [])
    return [word for word in words if not word.startswith("cache.slots_per_layer")]


SWITCHES = ("prediction", "prefetch", "substitution")


@pytest.fixture(scope="session")
def trace_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "small.safetensors"
    write_trace(path, random_trace(0, num_layers=2, num_experts=8, top_k=2))
    return path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, list[str]]:
    """Prediction rule -> the override that names a network (untrained) for the small trace."""
    folder = tmp_path_factory.mktemp("predictors")
    others = random_trace(99, num_layers=2, num_experts=8, top_k=2, prompts=(4, 3, 2), decodes=(6, 5, 4))
    kinds = {"moe_beyond": KINDS["experts"], "promoe_mlp": KINDS["promoe"]}
    paths = {rule: untrained(others, kind, folder / f"{rule}.safetensors") for rule, kind in kinds.items()}
    found = {rule: [f"policy.prediction.checkpoint='{path}'"] for rule, path in paths.items()}
    return found | {"promoe": found["promoe_mlp"]}


def metrics_of(overrides: list[str]) -> dict:
    table = StepTable(build(compose_run(*overrides)))
    table.run()
    return table.metrics()


@pytest.mark.slow
@pytest.mark.parametrize("policy", names("policy"))
def test_every_policy_runs_alike_on_both_engines(policy, trace_path, checkpoints):
    words = [f"policy={policy}", f"trace.path={trace_path}", *run_with(policy), *checkpoints.get(policy, [])]
    simpy, compiled = (metrics_of([*words, f"engine={engine}"]) for engine in ("simpy", "compiled"))
    assert simpy == compiled
    assert simpy["policy"] == policy
    assert simpy["tpot_s.mean"] > 0
    assert 0 <= simpy["hit_rate"] <= 1


@pytest.mark.parametrize("policy", names("policy"))
def test_every_policy_says_what_it_is_and_where_it_comes_from(policy):
    first, second = (CONF / "policy" / f"{policy}.yaml").read_text().splitlines()[:2]
    assert first.startswith("# ") and first.endswith(".")
    assert second.startswith("# Source: ")


@pytest.mark.slow
def test_parts_of_every_system_can_be_exchanged_by_one_override():
    """Knobs of a part live in the part's own yaml: in the system's they would be left behind by an exchange."""
    for policy in names("policy"):
        own = compose_run(f"policy={policy}").policy
        bare = compose_run(f"policy={policy}", *(f"policy/{part}=none" for part in SWITCHES)).policy
        assert set(own) == set(bare), policy
        assert all(set(bare[part]) == {"_target_"} for part in SWITCHES), policy


@pytest.mark.slow
@pytest.mark.parametrize("part", ["eviction", "prediction", "prefetch", "substitution", "assignment"])
def test_every_part_runs_inside_importance(part, trace_path, checkpoints):
    for name in names(f"policy/{part}"):
        still = (part, name) == ("prediction", "none") or name.startswith("frozen_")
        extra = ["policy/prefetch=none"] if still else []
        extra += checkpoints.get(name, []) if part == "prediction" else []
        if part == "prefetch" and load_part("prefetch", name).promotes:
            extra += ["policy/prediction=none", "policy/assignment=cpu_and_promote"]
        assert metrics_of([f"policy/{part}={name}", f"trace.path={trace_path}", *extra])["tpot_s.mean"] > 0, name


@pytest.mark.parametrize("hardware", names("hardware"))
def test_every_hardware_runs(hardware, trace_path):
    policy = "importance" if load_hardware(hardware).has_cpu else "lru"
    assert metrics_of([f"hardware={hardware}", f"policy={policy}", f"trace.path={trace_path}"])["tpot_s.mean"] > 0


RECORDED_ONLY = {path.stem for path in (CONF / "model").glob("*.yaml") if "expert_ffn" not in path.read_text()} - {
    "auto",
    "trace",
}


@pytest.mark.parametrize("model", sorted(set(names("model")) - RECORDED_ONLY))
def test_every_model_lends_its_sizes(model, trace_path):
    assert metrics_of([f"model={model}", f"trace.path={trace_path}"])["capacity_bytes"] > 0


@pytest.mark.parametrize("model", sorted(RECORDED_ONLY))
def test_models_without_sizes_are_refused(model, trace_path):
    with pytest.raises(UserError, match="says how to record a model, not its sizes"):
        metrics_of([f"model={model}", f"trace.path={trace_path}"])


@pytest.mark.parametrize("engine", names("engine"))
def test_every_engine_runs(engine, trace_path):
    metrics = metrics_of([f"engine={engine}", f"trace.path={trace_path}"])
    assert metrics["hit_rate"] > 0
    assert (metrics["tpot_s.mean"] is None) == (engine == "untimed")


@pytest.mark.parametrize("trace", names("trace"))
def test_every_trace_runs(trace):
    words = {"stand_in": ["model=olmoe_1b_7b"], "synthetic": ["card=demo"]}.get(trace, [])
    assert metrics_of([f"trace={trace}", "trace.requests=1", "policy=lru", *words])["tpot_s.mean"] > 0


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (["cache.fraction=1.5"], "cache.fraction=1.5: must be above 0 and at most 1"),
        (["policy.alpha=-1"], "alpha=-1: must be between 0 and 1"),
        (["hardware.cpu_memory_bytes_per_s=null", "hardware.cpu_core_bytes_per_s=null"], "states none"),
        (["policy.prediction.variant=never"], "must be before or after"),
        (["policy/prediction=none"], "TopScore has no prediction to choose from"),
        (["cache.overflow=hold", "cache.bytes=10"], "at least 1 slot is needed"),
        (["policy.substitution=null"], "policy.substitution"),
        (["+foo=1"], "foo is not a key of the configuration"),
    ],
)
def test_bad_knobs_are_one_sentence(override, sentence, trace_path):
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        metrics_of([f"trace.path={trace_path}", *override])


def test_unknown_keys_are_refused(trace_path):
    with pytest.raises((HydraException, OmegaConfBaseException)):
        metrics_of([f"trace.path={trace_path}", "cache.sloots=3"])


def test_a_trace_without_scores_is_refused_by_name(tmp_path):
    from dataclasses import replace

    bare = replace(random_trace(0), router_logits=None, lookahead_before=None, lookahead_after=None)
    path = tmp_path / "bare.safetensors"
    write_trace(path, bare)
    with pytest.raises(UserError, match=r"Score(Window|Band) needs full gate scores"):
        metrics_of([f"trace.path={path}"])
    with pytest.raises(UserError, match="Lookahead needs recorded lookahead logits"):
        metrics_of([f"trace.path={path}", "policy/eviction=lru", "policy/substitution=none"])
    assert metrics_of([f"trace.path={path}", "policy=belady"])["hit_rate"] > 0


def test_a_band_below_the_floor_of_stored_scores_is_refused(tmp_path):
    from dataclasses import replace

    import numpy as np

    from traces.format.trace import ScoreTable

    full = random_trace(0, num_experts=16, top_k=2)
    logits = full.router_logits.values
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :4]
    table = ScoreTable(
        np.take_along_axis(logits, order, -1),
        order.astype(np.uint8),
        np.log(np.exp(logits).sum(-1)).astype(np.float32),
    )
    path = tmp_path / "cut.safetensors"
    write_trace(path, replace(full, router_logits=table))
    with pytest.raises(UserError, match="below the floor of the stored scores"):
        metrics_of([f"trace.path={path}", "policy.alpha=0.9"])
    assert metrics_of([f"trace.path={path}", "policy.alpha=0.0"])["hit_rate"] > 0
