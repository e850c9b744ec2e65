"""`import sim` does what `python -m sim run` does, and stays quick."""

import copy
import doctest
import gc
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra

import sim
from policies.eviction.fifo import Fifo
from sim.__main__ import main
from sim.assembly.catalogue import load_policy
from sim.library import replays
from tests.sim.assembly.test_rule_files import MRU, POLICY
from tests.support.random_traces import random_trace
from traces.errors import UserError
from traces.format.files import write_trace


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_trace(Path("t.safetensors"), random_trace(0, prompts=(4,) * 6, decodes=(6,) * 6, expert_bytes=10**7))
    Path("mru.py").write_text(MRU.format(name="Mru"))
    Path("mine.yaml").write_text(POLICY.format(rule="mru.py"))
    GlobalHydra.instance().clear()


def test_the_examples_of_the_docstrings_are_true():
    found = doctest.testmod(replays)
    assert found.attempted >= 15 and found.failed == 0


def test_it_gives_what_the_command_gives():
    words = ["policy=importance", "policy/substitution=none", "cache.fraction=0.5", "engine=compiled", "batch_size=2"]
    assert main(["run", *words, "trace.path=t.safetensors", "hydra.run.dir=out"]) == 0
    policy = {"base": "importance", "substitution": "none"}
    for trace in ("t.safetensors", sim.load_trace("t.safetensors")):
        result = sim.replay(trace, policy=policy, cache=0.5, batch_size=2)
        assert result.metrics == json.loads(Path("out/metrics.json").read_text())
        pd.testing.assert_frame_equal(result.steps, pd.read_parquet("out/steps.parquet"))
        pd.testing.assert_frame_equal(result.requests, pd.read_parquet("out/requests.parquet"))
        assert result.provenance["trace_hash"] == json.loads(Path("out/provenance.json").read_text())["trace_hash"]


def test_policies_are_names_files_objects_and_rules():
    trace = sim.load_trace("t.safetensors")

    def moved(policy):
        return sim.replay(trace, policy=policy, cache=0.6).metrics["bytes_per_token"]

    fifo, own = moved({"eviction": "fifo"}), moved("mine.yaml")
    assert fifo != own
    for policy in ({"eviction": Fifo}, {"eviction": Fifo()}, Fifo, Fifo()):
        assert moved(policy) == fifo and sim.replay(trace, policy=policy).name == "lru eviction=Fifo"
    for policy in ("mru.py", "mru.py:Mru", Path("mine.yaml"), {"eviction": "mru.py"}):
        assert moved(policy) == own
    assert sim.replay(trace, policy="mru.py").name == "lru eviction=mru.py"
    assert sim.replay(trace, policy="mine.yaml").exchanged == ""
    assert sim.replay(trace, policy=load_policy("lru")).metrics == sim.replay(trace, policy="lru").metrics


def test_results_are_compared_drawn_and_shown():
    trace = sim.load_trace("t.safetensors")
    lru, best = sim.replay(trace, policy="lru"), sim.replay(trace, policy="belady")
    row = best.compare(lru, "bytes_per_token").iloc[0]
    assert row["difference"] == best.metrics["bytes_per_token"] - lru.metrics["bytes_per_token"]
    assert best.plot("attribution", lru).get_axes()
    assert "hit rate" in str(lru) and "SIMULATED" in repr(lru)


def test_a_copy_outlives_what_it_was_copied_from():
    """As a result that comes from another process, whose own is gone."""
    result = sim.replay("t.safetensors", policy="lru")
    metrics, steps = result.metrics, len(result.steps)
    sent = pickle.dumps(sim.replay("t.safetensors", policy="lru"))
    gc.collect()
    found = [pickle.loads(sent), copy.deepcopy(result), copy.copy(result)]
    del result
    gc.collect()
    for one in found:
        assert one.metrics == metrics and len(one.steps) == steps and one.compare(found[0], "hit_rate").size
    named = pickle.loads(pickle.dumps(sim.replay("t.safetensors", policy="lru", out="named")))
    assert named.folder == Path("named") and named.metrics == metrics
    for wrong in (lambda: named.compare("lru"), lambda: named.plot("attribution", "lru")):
        with pytest.raises(UserError, match="'lru' is no result"):
            wrong()


def test_numbers_of_numpy_and_groups_as_mappings_are_settings():
    given = {"cache": np.float32(0.5), "seed": np.int64(3), "time": {"host": np.bool_(False)}}
    config = sim.replay("t.safetensors", "lru", **given).provenance["config"]
    assert (config["cache"]["fraction"], config["seed"], config["time"]["host"]) == (0.5, 3, False)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"policy": "lrv"}, "policy=lrv is not known"),
        ({"policy": 3}, "must be a name, a file, a Policy"),
        ({"policy": {"evict": "lru"}}, "evict is no part"),
        ({"policy": {"prefetch": Fifo}}, r"must be derived from policies\.base\.Prefetch"),
        ({"batch_sizes": 4}, r"batch_sizes"),
        ({"trace": "no.safetensors"}, r"no\.safetensors"),
        ({"cache": 2.0}, "fraction=2"),
        ({"out": "full"}, "holds the results of a run already"),
        ({"out": "-"}, "out= must be a folder"),
        ({"out": ""}, "must be the name of a folder"),
        ({"out": 3}, "out=3: must be the name of a folder"),
        ({"system": "od_moe"}, r"system=od_moe: sim\.replay replays on system=device"),
        ({"hydra__run__dir": "x"}, r"hydra\.run\.dir: a setting of the command alone"),
        ({"seed": {1, 2}}, r"\{1, 2\}: must be a number, a text"),
        ({"cache": object()}, "must be a number, a text"),
        ({"engine": 7}, "engine=7: must be the name of a file in that group"),
        ({"time": {"hosts": False}}, "time.hosts is not a key"),
    ],
)
def test_what_is_not_known_is_refused_in_one_sentence(settings, says):
    Path("full").mkdir()
    Path("full/metrics.json").write_text("{}")
    with pytest.raises(UserError, match=says) as caught:
        sim.replay(**{"trace": "t.safetensors", "policy": "lru", **settings})
    assert "\n" not in str(caught.value)


def test_importing_it_loads_none_of_what_is_slow():
    code = "import sim, sys; print([name for name in ('numba', 'pandas', 'torch', 'hydra') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_part_given_as_a_setting_is_told_where_it_belongs():
    with pytest.raises(UserError, match=r'policy=\{"base": .lru., "eviction": .mru\.py.\} exchanges it'):
        sim.replay("t.safetensors", policy="lru", eviction="mru.py")
