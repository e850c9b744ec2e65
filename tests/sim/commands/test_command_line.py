"""The command line, sentence by sentence: what is typed, the status, and what is answered.

More of it: `test_run_command.py` (a continued sweep says what it kept), `tests/sim/test_help_text.py` (80 columns),
`tests/sim/calibrate` and `tests/sim/assembly/test_requests.py` (what is measured, NOT QUIET), `test_next_commands.py`.
"""

import json
from importlib.metadata import version

import pytest

from sim.__main__ import command_names, main

ONE = ("engine=compiled", "trace.requests=1")
"""The shortest run."""
ANSWERED = {
    "the version": (["--version"], 0, version("moe-offload-sim")),
    "a rule without its key": (["run", "lru"], 2, "did you mean policy=lru or policy/eviction=lru?"),
    "a policy with dashes": (["run", "--policy", "lru"], 2, "did you mean policy=lru?"),
    "a policy for bench": (["bench", "lru"], 2, "did you mean policy=lru?"),
    "a command nearly right": (["runn"], 2, "did you mean run?"),
    "a policy nearly right": (["run", "policy=lruu"], 2, "did you mean lru?"),
    "a policy in a sweep": (["run", "-m", "policy=lru,importanc"], 2, "did you mean importance?"),
    "a part nearly right": (["run", "policy/evction=lru"], 2, "did you mean policy/eviction?"),
    "a key nearly right": (["run", "cache.fractoin=1"], 2, "did you mean cache.fraction?"),
    "a machine nearly right": (["run", "hardware=rtx4091"], 2, "did you mean rtx4090?"),
    "a model nearly right": (["run", "model=mixtral"], 2, "did you mean mixtral_8x7b?"),
    "a trace nearly right": (["run", "trace=dmo"], 2, "did you mean demo?"),
    "a figure nearly right": (["plot", "demo", "figure=localty"], 2, "did you mean locality?"),
    "a format nearly right": (["import", "tabel", "a", "b"], 2, "did you mean table?"),
    "a rule to explain": (["policies", "importanc"], 2, "did you mean importance?"),
    "a plain word for a trace": (["info", "dmo"], 2, "dmo is no trace file, and of embedded traces there is demo"),
    "an extra that is missing": (
        ["run", "-m", "hydra/sweeper=optuna"],
        2,
        "it comes with the extra sweep: pip install",
    ),
    "what a format takes": (["import", "table", "--help"], 0, "--experts NAME"),
    "what another format takes": (["import", "routed_experts", "--help"], 0, "routed_experts"),
    "a place that is none": (["run", "out="], 2, "out=: must be a name, not an empty one"),
    "a switch": (["run", "quiet=yes"], 2, "quiet=yes: must be true or false"),
    "a form": (["run", "format=yaml"], 2, "format=yaml: must be table or json"),
    "bytes with a unit": (["run", "cache.bytes=20GB"], 2, "cache.bytes=20GB: must be a whole number, auto or null"),
}


@pytest.mark.parametrize("what", ANSWERED)
def test_what_is_typed_is_answered(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, status, answer = ANSWERED[what]
    if "optuna" in words[-1] and optuna_is_here():
        pytest.skip("the extra is installed")
    try:
        found = main(words)
    except SystemExit as end:  # argparse, after --help
        found = end.code
    said = capsys.readouterr()
    assert (found or 0) == status
    assert answer in (said.err if status else said.out)
    if status:
        assert "Traceback" not in said.err and said.err.count("\n") == 1
        assert not list(tmp_path.rglob("metrics.json"))


def optuna_is_here():
    from hydra.core.plugins import Plugins

    return any("Optuna" in plugin.__name__ for plugin in Plugins.instance().discover())


def test_a_run_goes_where_it_is_told_and_says_nothing_if_told_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "policy=lru", *ONE, "cache.bytes=2e9", "out=here", "quiet=true"]) == 0
    assert capsys.readouterr().out == ""
    assert {"metrics.json", "provenance.json"} <= {path.name for path in (tmp_path / "here").iterdir()}
    assert main(["run", "policy=lru", *ONE, "cache.bytes=2e9", "format=json", "out=there"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["label"] == "SIMULATED" and said["folder"].endswith("there")
    assert said["metrics"] == json.loads((tmp_path / "here" / "metrics.json").read_text())


def test_the_list_of_commands_fits_80_columns(capsys):
    assert main([]) in (0, None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "} == set(command_names())


@pytest.mark.parametrize("words", [["export", "demo"], ["card", "demo"], ["import", "table", "routing.csv"]])
def test_out_is_said_alike_everywhere(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_bytes(b"")
    assert main([*words, "out=taken/file"]) == 2
    assert "out=" not in capfd.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["taken"]
