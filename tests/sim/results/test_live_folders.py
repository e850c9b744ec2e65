"""Folders that a sweep is still writing to are read: what vanishes meanwhile is passed over."""

import threading

from sim.results.run_files import finished_runs, unfinished_runs


def test_runs_that_get_their_names_meanwhile_do_no_harm(tmp_path):
    """A thread makes hidden folders and renames them, as runs do, while the folder is read again and again."""
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "metrics.json").write_text("{}")
    stop = threading.Event()

    def rename() -> None:
        count = 0
        while not stop.is_set():
            part, count = tmp_path / f".run.{count}.part", count + 1
            part.mkdir()
            (part / "metrics.json").write_text("{}")
            part.replace(tmp_path / f"run_{count}")
            (tmp_path / f"run_{count}" / "metrics.json").unlink()
            (tmp_path / f"run_{count}").rmdir()

    writer = threading.Thread(target=rename)
    writer.start()
    try:
        for _ in range(300):
            assert tmp_path / "done" in finished_runs(tmp_path)
            unfinished_runs(tmp_path)
    finally:
        stop.set()
        writer.join()
    assert finished_runs(tmp_path) == [tmp_path / "done"] and unfinished_runs(tmp_path) == []


def test_hidden_folders_do_not_count(tmp_path):
    for name in ("a", ".b.part", "c/.d.part", "c/e"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.json").write_text("{}")
    assert finished_runs(tmp_path) == [tmp_path / "a", tmp_path / "c" / "e"]
    assert unfinished_runs(tmp_path) == [tmp_path / ".b.part", tmp_path / "c" / ".d.part"]
    assert finished_runs(tmp_path / "c" / "e") == [tmp_path / "c" / "e"]
