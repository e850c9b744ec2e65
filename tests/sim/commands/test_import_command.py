"""`import`: writes a valid trace, says what it holds, and leaves nothing behind when it fails."""

import re

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from sim.__main__ import main as run_command
from sim.commands.import_ import main, missing
from tests.support.random_traces import recorded_trace
from traces.errors import UserError
from traces.format.files import read_trace
from traces.importers import importer_names


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", np.argsort(rng.random((6, 3, 8)), -1)[..., :2])
    return tmp_path / "a.npy"


def test_an_import_writes_a_trace_and_says_what_it_holds(source, tmp_path, capsys):
    out = tmp_path / "new/out.safetensors"
    arguments = ["routed_experts", str(source), str(out), "--num-experts", "8", "--prompt-len", "4", "--model", "m"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "m, 3 MoE layers, top-2 of 8 experts" in text and "4 prefill and 2 decode rows" in text
    assert "not known to be best first" in text
    first = out.read_bytes()
    assert read_trace(out).num_tokens == 6
    main(arguments)
    assert out.read_bytes() == first  # same source, same bytes


def test_a_failed_import_leaves_no_file(source, tmp_path):
    for number, sentence in (("7", "holds expert 7"), ("1", "--num-experts=1")):
        with pytest.raises(UserError, match=sentence):
            main(["routed_experts", str(source), str(tmp_path / "out"), "--num-experts", number])
    duplicate = np.ones((2, 1, 2), int)
    np.save(source, duplicate)
    with pytest.raises(UserError, match="listed twice"):
        main(["routed_experts", str(source), str(tmp_path / "out"), "--num-experts", "8"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_out_may_not_be_the_source_or_a_folder(source, tmp_path):
    for out, sentence in ((source, "other than SOURCE"), (tmp_path, "is a folder: must be a file")):
        with pytest.raises(UserError, match=sentence):
            main(["routed_experts", str(source), str(out), "--num-experts", "8"])


@pytest.mark.parametrize("arguments", [[], ["routed_experts", "a", "b"]])
def test_wrong_arguments_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize("name", [None, *importer_names()])
def test_help_teaches(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*([name] if name else []), "--help"])
    assert stopped.value.code == 0
    assert ("python -m sim import" in capsys.readouterr().out) is True


def test_help_shows_an_example_of_every_format_and_each_format_its_options(capsys):
    assert run_command(["import", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"python -m sim import {name} " in text for name in importer_names())
    with pytest.raises(SystemExit) as ended:
        run_command(["import", "jsonl", "--help"])
    assert ended.value.code == 0 and "--num-experts" in capsys.readouterr().out


def test_an_import_says_what_is_missing_and_who_refuses_the_trace(source, tmp_path, capsys):
    assert main(["routed_experts", str(source), str(tmp_path / "t.safetensors"), "--num-experts", "8"]) == 0
    text = capsys.readouterr().out
    assert "Missing: weights, scores of all experts, lookahead of the next gate, token ids, bytes per expert" in text
    refused = dict(re.findall(r"Refused by (.*): needs (.*)\.", text))
    named = {name for names in refused for name in names.split(", ")}
    assert {"importance", "smoe_code", "fiddler", "buddymoe", "mixtral_offloading_paper"} <= named
    assert not {"lru", "belady", "llama_cpp", "deepspeed"} & named
    for name in ("buddymoe", "lru"):  # as a run does
        words = [f"policy={name}", f"trace.path={tmp_path / 't.safetensors'}", "model=mixtral_8x7b", "engine=untimed"]
        GlobalHydra.instance().clear()
        status = run_command(["run", *words, f"out={tmp_path / name}", "quiet=true"])
        assert status == (2 if name in named else 0), capsys.readouterr().err


def test_nothing_is_missing_of_a_whole_trace():
    trace = recorded_trace(0)
    assert not any(line.startswith("Refused") for line in missing(trace))
