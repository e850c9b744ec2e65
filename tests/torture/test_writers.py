"""Every command that writes, on a disk that is full and into places that are no files."""

import errno
import logging
import os
import re
import stat
from pathlib import Path

import pytest

from sim.__main__ import main
from sim.paths import ROOT
from traces.whole_file import _Named

RUN = ["run", "policy=lru", "engine=compiled", "trace.requests=2"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A finished sweep of two runs with timelines."""
    folder = tmp_path_factory.mktemp("writers") / "sweep"
    words = ["run", "-m", "policy=lru,on_demand", "engine=compiled", "trace.requests=2", f"hydra.sweep.dir={folder}"]
    assert main(words) == 0
    return folder


@pytest.fixture(autouse=True)
def no_logging_of_others():
    """Hydra's logging of a run before would go into an output that pytest has closed."""
    logging.getLogger().handlers.clear()


@pytest.fixture
def full_disk(monkeypatch):
    """No file of this tool takes a byte, what it prints does; gives the names that were tried."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    monkeypatch.setattr(_Named, "write", write)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [*RUN, "hydra.run.dir={out}"],
        [*RUN, "timeline=true", "hydra.run.dir={out}"],
        ["run", "system=od_moe", "trace.requests=1", "hydra.run.dir={out}"],
        ["run", "-m", "policy=lru", "trace.requests=2", "hydra.sweep.dir={out}"],
        ["plot", "{sweep}", "figure=attribution", "out={out}"],
        ["plot", "demo", "figure=routing", "out={out}"],
        ["compare", "{sweep}", "out={out}/pairs.csv"],
        ["compare", "{sweep}", "out={out}/pairs.parquet"],
        ["report", "{sweep}", "out={out}/page.html"],
        ["gather", "{sweep}"],
    ],
    ids=lambda words: " ".join(words[:2]) + words[-1][-7:],
)
def test_a_full_disk_leaves_nothing_and_is_said_with_the_file(words, sweep, tmp_path, full_disk, capfd):
    out = tmp_path / "out"
    before = files(sweep)
    words = [word.format(out=out, sweep=sweep) for word in words]
    status = main(words)
    said = capfd.readouterr().err
    assert status == 2 and "Traceback" not in said and "Error executing job" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    place = sweep if words[0] == "gather" else out
    assert len(errors) == 1 and str(place) in errors[0] and "No space left on device" in errors[0], said
    assert files(sweep) == before
    assert not out.exists() or files(out) == {}, files(out).keys()
    assert not list(tmp_path.rglob(".*.part")) and not list(sweep.rglob(".*.part"))


@pytest.mark.slow
def test_a_sweep_goes_on_after_its_disk_was_full(tmp_path, monkeypatch, capfd):
    words = ["run", "-m", "policy=lru,on_demand", "engine=compiled", "trace.requests=2", f"hydra.sweep.dir={tmp_path}"]
    room, write = [20_000], _Named.write

    def limited(self, data):
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        return write(self, data)

    with monkeypatch.context() as limit:
        limit.setattr(_Named, "write", limited)
        assert main(words) == 2
    said = capfd.readouterr().err
    assert "No space left on device" in said and str(tmp_path) in said and not list(tmp_path.rglob(".*.part"))
    assert main(words) == 0
    assert (tmp_path / "results.parquet").is_file() and len(list(tmp_path.rglob("metrics.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "compare"])
def test_the_standard_output_takes_a_file_alone(command, sweep, capfd):
    assert main([command, str(sweep), "out=-"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("<!doctype html>" if command == "report" else "conditions") and "wrote -" in err
    assert "wrote" not in out[-200:]


@pytest.mark.parametrize(
    "words",
    [
        ["report", "{sweep}", "out={place}"],
        ["compare", "{sweep}", "out={place}"],
        ["plot", "{sweep}", "figure=attribution", "out={place}"],
        ["record", "requests=1", "out={place}"],
        ["train-predictor", "out={place}"],
        ["calibrate", "out={place}", "seconds=1"],
        ["import", "gpt_oss", "{sweep}", "{place}"],
        [*RUN, "hydra.run.dir={place}"],
        ["run", "-m", "policy=lru", "trace.requests=2", "hydra.sweep.dir={place}"],
        ["quality", "windows=1", "hydra.run.dir={place}"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("kind", ["socket", "below a file"])
def test_a_place_that_cannot_be_written_is_refused_in_a_sentence(words, kind, sweep, tmp_path, monkeypatch, capfd):
    import socket

    monkeypatch.chdir(tmp_path)
    name = "it"
    if kind == "socket":
        socket.socket(socket.AF_UNIX).bind("it")
    else:
        Path("file").write_bytes(b"")
        name = "file/it"
    assert main([word.format(place=name, sweep=sweep) for word in words]) == 2
    said = capfd.readouterr().err
    assert said.count("error: ") == 1 and "Traceback" not in said, said
    assert re.search(r"it\b|file", said.split("error: ")[1])
    if kind == "socket":
        assert stat.S_ISSOCK(Path("it").lstat().st_mode)


def test_reports_and_figures_follow_no_link_out_of_a_folder_of_others(sweep, tmp_path, capfd):
    """Whoever made the folder could choose which file of the reader's is overwritten."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    links = {"report": "report.html", "plot": "figures", "gather": "results.parquet"}
    for command, name in links.items():
        link, kept = sweep / name, sweep / f"{name}.kept"
        if link.exists():
            link.rename(kept)
        link.symlink_to(mine if command != "plot" else tmp_path)
        try:
            assert main([command, str(sweep)]) == 2
            assert "leads out of" in capfd.readouterr().err
        finally:
            link.unlink()
            if kept.exists():
                kept.rename(link)
    assert mine.read_bytes() == b"mine" and [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("command", ["report", "plot", "compare", "gather", "info"])
def test_an_empty_name_is_refused(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main([command, ""]) == 2
    assert "an argument is empty" in capfd.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["hydra.run.dir=", "hydra.run.dir=''", "hydra.sweep.dir=", "sweep.name="])
def test_an_empty_place_is_refused(word, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, word]) == 2
    assert "not an empty one" in capfd.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["report"], ["plot"], ["compare"], ["run", "policy=lru"]])
def test_a_name_that_is_not_utf8_is_refused_in_a_sentence(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"a\xff")
    given = f"hydra.run.dir={name}" if words[0] == "run" else name
    assert main([*words, given]) == 2
    said = capfd.readouterr().err
    assert "is no UTF-8 text" in said and said.count("\n") == 1 and "Lexer" not in said and not list(tmp_path.iterdir())


WRITES = re.compile(
    r"\.write_(text|bytes)\(|os\.(replace|rename)\(|\.rename\(|\.touch\((?!rules)|savefig\((?!content|buffer)|save_file\("
    r"|\.(to_csv|to_parquet|savez_compressed)\((?!index|buffer|file)|open\([^)]*[\"'][wax]b?\+?[\"']"
)
MAY = {
    "sim/sweep/jobs.py": [".rename("],  # the folder of a finished run
    "sim/sweep/end.py": [".touch("],  # an unguessable mark
    "traces/demo/cache.py": [".rename("],  # the folder of a finished training
}


def test_nothing_else_writes():
    """Every writer goes through `traces.whole_file`."""
    found = {}
    for path in sorted(
        [*(ROOT / "sim").rglob("*.py"), *(ROOT / "traces").rglob("*.py"), *(ROOT / "policies").rglob("*.py")]
    ):
        words = [match.group() for match in WRITES.finditer(path.read_text(encoding="utf-8"))]
        if words and path.name != "whole_file.py":
            found[str(path.relative_to(ROOT))] = words
    assert found == MAY
