"""What a stranger wrote is shown as text: on a terminal, in a page, in a picture, in a spreadsheet."""

import base64
import json
import os
import re
import subprocess
import sys
import unicodedata
import warnings
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from sim.__main__ import main
from sim.paths import CONF
from tests.support.random_traces import random_trace
from traces.format.files import write_trace
from traces.text import printable, short_name, spreadsheet_cell, visible

HOSTILE = (
    "=evil\x1b[31m\x1b]0;title\x07\x1b[2J\r\x08\x7f\x9b31m\u202egpj\u2066x\u2069\u200bA\u4f60\U0001f600\n"
    "note: all is well"
)
STEERS = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


def steering(text: str) -> list[str]:
    """What steers a terminal or a reader in a text, ends of lines and tabs left out."""
    return [one for one in text if unicodedata.category(one) in STEERS and one not in "\n\t"]


def hostile_trace(path):
    trace = random_trace(0, num_layers=2, prompts=(3,) * 6, decodes=(4,) * 6)
    geometry = replace(trace.geometry, model=HOSTILE)
    provenance = {"statement": HOSTILE, "source": HOSTILE, "notes": [HOSTILE, "long " * 1000], HOSTILE: HOSTILE}
    labels = (HOSTILE,) * 3 + ("@" * 5000,) * 3
    write_trace(path, replace(trace, geometry=geometry, provenance=provenance, request_labels=labels))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep whose every name is hostile."""
    root = tmp_path_factory.mktemp("hostile")
    trace = hostile_trace(root / "t.safetensors")
    machine = yaml.safe_load((CONF / "hardware" / "rtx4090.yaml").read_text())
    machine |= {"name": HOSTILE, "sources": dict.fromkeys(machine["sources"], f"ESTIMATED: {HOSTILE}")}
    (root / "mine.yaml").write_text(yaml.safe_dump(machine))
    for policy in ("lru", "importance"):
        for size in (1, 2):
            GlobalHydra.instance().clear()
            words = (f"trace.path={trace}", f"hardware={root / 'mine.yaml'}", f"policy={policy}", f"batch_size={size}")
            assert main(["run", "engine=compiled", f"hydra.run.dir={root / f'{policy}{size}'}", *words]) == 0
    for path in root.rglob("provenance.json"):
        content = json.loads(path.read_text())
        content["policy"] = f"{content['policy']}{HOSTILE}{'y' * 5000}"
        content["label"] = HOSTILE
        path.write_text(json.dumps(content))
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["info", "{0}/t.safetensors"],
        ["run", "engine=compiled", "policy=lru", "trace.path={0}/t.safetensors", "hardware={0}/mine.yaml",
         "hydra.run.dir={0}/again"],
        ["run", "policy=lru", "trace.path={0}/t.safetensors", "trace.labels=['\x1b[31m']"],
        ["run", "policy=\x1b[31m"],
        ["compare", "{0}", "out={0}/pairs.csv"],
        ["plot", "{0}"],
        ["plot", "{0}/t.safetensors"],
        ["report", "{0}"],
        ["gather", "{0}"],
        ["import", "jsonl", "{0}/\x1b[31m\u202e.jsonl", "{0}/x.safetensors", "--num-experts", "8"],
        ["\x1b[31m"],
        ["validate", "machine=\x1b[31m"],
    ],
)  # fmt: skip
def test_nothing_steers_the_terminal(words, folder, tmp_path):
    """In a process of its own: libraries and warnings print too."""
    here = os.environ | {"PYTHONPATH": str(CONF.parent)}
    command = [sys.executable, "-m", "sim", *(word.format(folder) for word in words)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, env=here, check=False
    )
    assert done.returncode in (0, 2), done.stderr
    for text in (done.stdout, done.stderr):
        assert not steering(text), text
        assert not any(line.startswith("note: all is well") for line in text.splitlines())
        assert "Warning" not in text and "site-packages" not in text and max(map(len, text.split("\n"))) < 2500


@pytest.mark.slow
def test_the_page_and_its_pictures_hold_no_controls_and_no_long_names(folder):
    GlobalHydra.instance().clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that is missing would be one
        assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert not steering(page) and "\\u202e" in page and "y" * 200 not in page
    pictures = [base64.b64decode(one).decode() for one in re.findall(r"svg\+xml;base64,([\w+/=]+)", page)]
    assert pictures and not any(steering(picture) for picture in pictures)


def test_cells_that_begin_like_a_formula_are_text(folder):
    GlobalHydra.instance().clear()
    path = folder / "lru1" / "provenance.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"policy": "=1+cmd|' /C calc'!A0"}))
    assert main(["compare", str(folder), f"out={folder / 'pairs.csv'}"]) == 0
    path.write_text(json.dumps(content))
    table = pd.read_csv(folder / "pairs.csv")
    texts = [cell for name in table for cell in table[name] if isinstance(cell, str)]
    assert any(cell.startswith("'=1+cmd") for cell in texts)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in texts)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1", "'=1"), ("+1", "+1"), ("-1.5e3", "-1.5e3"), ("-", "'-"), ("+a", "'+a"), ("@x", "'@x"), ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"), (" =1", "' =1"), ("-1+cmd", "'-1+cmd"), ("-1_0", "'-1_0"), ("a=1", "a=1"), (-1.5, -1.5),
        (None, None), ("", ""), ("\n@x", "'\n@x"), ("-inf", "-inf"), ("-1 ", "'-1 "),
    ],
)  # fmt: skip
def test_what_a_spreadsheet_gets(cell, written):
    assert spreadsheet_cell(cell) == written


def test_every_character_is_visible_or_escaped():
    ranges = (range(0x11000), range(0x1F300, 0x1F400), range(0xE0000, 0xE0100))
    everything = "".join(chr(one) for some in ranges for one in some)
    assert not [one for one in steering(visible(everything)) if one != "\u00a0"]
    assert visible("a\tb\nc\u00a0d é 你") == "a\tb\nc\u00a0d é 你"
    for start in range(0, len(everything), 500):
        assert not steering(printable(everything[start : start + 500]))
        assert "\n" not in short_name(everything[start : start + 500])
    assert len(short_name("x" * 10**6)) == 48 and short_name("x" * 999) != short_name("x" * 998 + "yx")


@pytest.mark.slow
def test_resolvers_in_a_result_folder_are_text(folder, monkeypatch, capsys):
    monkeypatch.setenv("SECRET_OF_MINE", "s3cr3t")
    run = folder / "lru1"
    word = "+x=${oc.env:SECRET_OF_MINE}"
    for name, text in (
        ("overrides.yaml", f"- {word}\n"),
        ("config.yaml", f"x: {word}\n"),
        ("hydra.yaml", "a: ${oc.env:A}"),
    ):
        (run / ".hydra" / name).write_text(text)
    before = {path: path.read_text() for path in folder.rglob("provenance.json")}
    (folder / "multirun.yaml").write_text(f"hydra:\n  overrides:\n    task:\n    - {word}\n")
    for path, text in before.items():
        content = json.loads(text)
        content.pop("overrides", None)
        path.write_text(json.dumps(content | {"config": content["config"] | {"y": word}}))
    try:
        for words in (["report", str(folder)], ["plot", str(folder)], ["compare", str(folder)]):
            GlobalHydra.instance().clear()
            assert main(words) == 0
    finally:
        (folder / "multirun.yaml").unlink()
        for path, text in before.items():
            path.write_text(text)
    captured = capsys.readouterr()
    page = (folder / "report.html").read_text()
    assert "s3cr3t" not in page + captured.out + captured.err and "oc.env:SECRET_OF_MINE" in page
