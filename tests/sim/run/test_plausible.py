"""Plausible machines: flips that are known by hand; intervals that count machines in cover."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from sim.__main__ import main as whole_command
from sim.assembly.catalogue import load_rule, rule_names
from sim.commands.compare import main
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime
from sim.machine.uncertainty import moved_machine
from sim.metrics.registry import quantity_of
from sim.results.plausible_file import write_plausible
from sim.results.run_files import uncertainty_of
from sim.run import plausible
from sim.run.plausible import Flip, Moved, _where, check_plain, flip_words, flips
from sim.statistics.pairs import REPLAYED, contrast
from sim.statistics.plausible import Plausible
from tests.sim.statistics.test_coverage import AT_LEAST, FASTER, TRUTH, samples
from traces.errors import UserError

HOST_S, ERROR = 1e-3, 1.0
SIGMA = float(np.sqrt(np.log1p(ERROR**2)))
TPOT = quantity_of("tpot_s.mean")


def known_pair(monkeypatch, crossing_s: float) -> tuple[Path, Path]:
    """One takes 2 ms + host, the other 2 ms + 2 crossing - host: equal where the host takes `crossing_s`."""
    runtime = Runtime("r", host_s_per_layer=HOST_S, uncertainty={"host_s_per_layer": ERROR})
    machine = Machine(Hardware("h", 10**9, 1e11, 1e13, 1e-6, 1e10), runtime)
    times = {
        "one": lambda host_s: 2e-3 + host_s,
        "other": lambda host_s: 2e-3 + 2 * crossing_s - host_s,
    }
    folders = (Path("one"), Path("other"))
    monkeypatch.setattr(Moved, "machine", property(lambda self: machine))
    monkeypatch.setattr(Moved, "moves", property(lambda self: self.__dict__.setdefault("_moves", {})))
    monkeypatch.setattr(
        Moved, "on", lambda self, on: {"tpot_s.mean": times[self.folder.name](on.figure("host_s_per_layer"))}
    )
    monkeypatch.setattr(plausible, "read_json", lambda path: {})
    monkeypatch.setattr(plausible, "_keep", lambda one: None)
    stated = {name: {"tpot_s.mean": times[name](HOST_S)} for name in times}
    monkeypatch.setattr(
        plausible,
        "read_plausible",
        lambda run, provenance: Plausible((0,), stated[run.name], {"tpot_s.mean": np.full(8, 1e-3)}),
    )
    return folders


@pytest.mark.parametrize("crossing_s", [0.2e-3, 0.7e-3, 2e-3, 5e-3])
def test_the_flip_is_where_two_times_cross(monkeypatch, crossing_s):
    folders = known_pair(monkeypatch, crossing_s)
    values = (2e-3 + HOST_S, 2e-3 + 2 * crossing_s - HOST_S)
    found = flips(folders, values, "tpot_s.mean")
    assert found is not None and [flip.figure for flip in found] == ["host_s_per_layer"]
    assert found[0].values[0] == pytest.approx(crossing_s, rel=0.05)
    assert found[0].errors == pytest.approx(np.log(crossing_s / HOST_S) / SIGMA, abs=0.05)
    assert f"runtime.host_s_per_layer = {1e3 * found[0].values[0]:.3g} ms" in flip_words(found, ("one", "other"))


def test_no_flip_beyond_three_standard_errors(monkeypatch):
    crossing_s = HOST_S * float(np.exp(3.2 * SIGMA))
    folders = known_pair(monkeypatch, crossing_s)
    assert flips(folders, (2e-3 + HOST_S, 2e-3 + 2 * crossing_s - HOST_S), "tpot_s.mean") == []
    assert flip_words([], ("a", "b")) == "no single figure within 3 standard errors flips the order"


def test_figures_of_two_runtimes_are_both_named():
    words = flip_words([Flip("link_bytes_per_s", -1.5, (8e9, 4e9), (1e10, 5e9))], ("a", "b"))
    assert "hardware.link_bytes_per_s = 8 GB/s for a (stated: 10 GB/s) and 4 GB/s for b (stated: 5 GB/s)" in words


def test_a_figure_is_moved_in_standard_errors_of_its_logarithm():
    machine = Machine(
        Hardware("h", 10**9, 1e11, 1e13, 1e-6, 1e10),
        Runtime("r", host_s_per_layer=HOST_S, uncertainty={"host_s_per_layer": ERROR}),
    )
    assert moved_machine(machine, "host_s_per_layer", 1.0).runtime.host_s_per_layer == pytest.approx(
        HOST_S * np.exp(SIGMA)
    )
    assert moved_machine(machine, "link_bytes_per_s", 1.0) == machine  # exact


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "members", "count"), [(24, 1, 400)])
def test_intervals_of_differences_and_ratios_cover_requests_and_machine(blocks, members, count):
    """The true machine is drawn like the plausible ones: the time of one policy is as uncertain as a factor of 1.3."""
    rng, held = np.random.default_rng(5), {"difference": [], "ratio": []}
    for slow, fast in samples(blocks, members, count=count):
        machines, true = np.exp(0.3 * rng.standard_normal(24)), float(np.exp(0.3 * rng.standard_normal()))
        drawn = [Plausible((0,), {TPOT.name: 1.0}, {TPOT.name: factors}) for factors in (machines, np.ones(24))]
        pair = contrast(replace(slow, plausible=drawn[0]), replace(fast, plausible=drawn[1]), TPOT)
        assert pair.machine == REPLAYED and len(pair.shifted) == 24
        held["difference"].append(pair.difference.low <= TRUTH * (true - FASTER) <= pair.difference.high)
        held["ratio"].append(pair.ratio.low <= true / FASTER <= pair.ratio.high)
    assert {name: np.mean(found) >= AT_LEAST for name, found in held.items()} == {"difference": True, "ratio": True}


def test_what_moves_both_runs_alike_widens_nothing():
    slow, fast = next(iter(samples(24, 1, count=1)))
    alike = Plausible((0,), {TPOT.name: 1.0}, {TPOT.name: np.linspace(0.5, 2, 24)})
    pair = contrast(replace(slow, plausible=alike), replace(fast, plausible=alike), TPOT)
    alone = contrast(slow, fast, TPOT)
    assert pair.ratio.interval == pytest.approx(alone.ratio.interval)


def test_the_runtime_s_errors_count_too():
    provenance = {
        "config": {"hardware": {"uncertainty": {"link_bytes_per_s": 0.1}}},
        "machine": {"runtime": {"name": "r", "uncertainty": {"host_s_per_layer": 1.0}}},
    }
    assert uncertainty_of(provenance) == {"link_bytes_per_s": 0.1, "host_s_per_layer": 1.0}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"policy": {"eviction": {"_target_": "mine.Rule"}}}, "its rule mine.Rule is none of this package"),
        *(
            ({"policy": {"eviction": {"_target_": target}}}, "is none of this package")
            for target in (
                "policies.d/evil.py:Evil",
                "policies.evil.py:Evil",
                "policies.evil.py",
                "policies.evil:Evil",
                "policies.eviction.lru",
                "policies.base.Eviction",
                "policies.eviction.lru.Lru.py",
                "policies:evil.py",
                "",
            )
        ),
        ({"policy": {"name": "${oc.env:HOME}"}}, "nothing of others is evaluated"),
        ({"trace": {"labels": ["a", "${oc.env:HOME}"]}}, "nothing of others is evaluated"),
    ],
)
def test_folders_of_others_run_no_code(config, words):
    with pytest.raises(UserError, match=words):
        check_plain(config)
    check_plain({"policy": {"eviction": {"_target_": "policies.eviction.lru.Lru"}, "alpha": 0.3, "none": None}})


def test_every_shipped_rule_is_replayed():
    """Also under the name that a run of `import sim` gives it."""
    for name in rule_names("eviction"):
        target = load_rule("eviction", name).target
        for named in (target, ":".join(target.rsplit(".", 1))):
            check_plain({"policy": {"eviction": {"_target_": named}}})


@pytest.mark.slow
def test_a_file_beside_a_folder_of_results_is_not_run(tmp_path, monkeypatch, capsys):
    """Its name begins like a module of the package."""
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    words = ["policy=lru,on_demand", "engine=compiled", "trace.requests=2", "out=runs"]
    assert whole_command(["run", "-m", *words]) == 0
    Path("policies.d").mkdir()
    for name in ("policies.d/evil.py", "policies.evil.py"):
        Path(name).write_text("raise SystemExit('code of others ran')\n")
        for path in Path("runs").rglob("provenance.json"):
            content = json.loads(path.read_text())
            content["config"]["policy"]["eviction"] = {"_target_": f"{name}:Evil"}
            path.write_text(json.dumps(content))
        capsys.readouterr()
        main(["runs", "machines=8"])
        captured = capsys.readouterr()
        assert "code of others is not imported here" in captured.out + captured.err


def test_replays_are_kept_through_no_link_out_of_the_run(tmp_path):
    """Whoever made the folder could choose which file of the reader's is overwritten."""
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.write_bytes(b"mine")
    run.mkdir()
    (run / "plausible.json").symlink_to(mine)
    with pytest.raises(UserError, match="leads out of"):
        write_plausible(run, {}, (0,), {}, {}, {})
    assert mine.read_bytes() == b"mine"


def test_machines_are_none_or_enough():
    with pytest.raises(UserError, match=r"machines=3: must be 0 \(none\), or from 8 to 1000"):
        main(["outputs", "machines=3"])


def test_compare_says_in_how_many_machines_and_what_would_turn_the_order(tmp_path, capsys, monkeypatch):
    from hydra import compose, initialize_config_dir

    from sim.paths import CONF
    from sim.run.execute import execute

    with initialize_config_dir(str(CONF), version_base=None):
        for policy in ("lru", "on_demand"):
            words = [f"policy={policy}", "engine=compiled", "trace.requests=3", "sweep.name=x"]
            execute(compose("config", words), tmp_path / policy)
    assert main([str(tmp_path), "machines=8"]) == 0
    printed = capsys.readouterr().out
    assert "smoe_2026_07 (same runtime)" in printed
    assert "% of 8 plausible machines (3 requests replayed on each); " in printed
    kept = json.loads((tmp_path / "lru" / "plausible.json").read_text())
    assert len(kept["drawn"]["tpot_s.mean"]) == 8 and len(set(kept["drawn"]["tpot_s.mean"])) == 8
    metrics = json.loads((tmp_path / "lru" / "metrics.json").read_text())
    assert kept["stated"]["tpot_s.mean"] == metrics["tpot_s.mean"]  # all requests of the run: the same replay
    monkeypatch.setattr(Moved, "on", None)  # nothing is replayed again
    assert main([str(tmp_path), "machines=8"]) == 0
    assert capsys.readouterr().out == printed
    assert main([str(tmp_path), "machines=0"]) == 0
    printed = capsys.readouterr().out
    assert "machines=0: intervals are over requests alone" in printed and "plausible machines (" not in printed


def test_a_sentence_says_of_which_capacity_and_machine_it_is_where_there_are_several():
    pair = {"asked_capacity": "0.25", "hardware": "s1", "batch_size": 1}
    assert _where(pair, []) == ""
    assert _where(pair, ["asked_capacity", "hardware", "batch_size"]) == "capacity 0.25, s1, batch size 1: "
