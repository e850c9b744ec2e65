"""scripts/studies/reproduce.py: a part that fails or is left out is said, and the rest goes on."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "studies"))
reproduce = importlib.import_module("reproduce")


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
    text = Path(reproduce.__file__).read_text()
    for name in ("smoe_ablation.py", "od_moe.py", "expert_streaming.py", "benchmark.py", "published_hit_rates.py"):
        assert f'"{name}"' in text
        assert (Path(reproduce.__file__).parent / name).is_file()
