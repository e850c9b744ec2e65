"""scripts/studies/reproduce.py: a part that fails or is left out is said, and the rest goes on."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.studies import reproduce


def broken(places):
    raise subprocess.CalledProcessError(3, "x")


def test_every_part_says_what_became_of_it(monkeypatch, capsys, tmp_path):
    parts = {"a": lambda places: None, "b": broken, "published": reproduce.published}
    monkeypatch.setattr(reproduce, "PARTS", parts)
    assert reproduce.main(["--runs", str(tmp_path)]) == 1
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    said = dict(lines)
    assert said["a"] == "0 s"
    assert said["b"].startswith("FAILED with status 3 after")
    assert said["published"] == "left out: it needs --traces FOLDER"
    assert "together" in said


def test_parts_can_be_chosen(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(reproduce, "PARTS", {"a": done.append, "b": broken})
    assert reproduce.main(["--runs", str(tmp_path), "--only", "a"]) == 0
    assert done == [reproduce.Places(tmp_path, None)]
    with pytest.raises(SystemExit):
        reproduce.main(["--only", "nothing"])


def test_every_script_it_calls_is_there():
    names = re.findall(r'script\("([\w.]+)"', Path(reproduce.__file__).read_text())
    assert len(names) == 6
    assert all(find_spec(f"scripts.{name}") for name in names)
