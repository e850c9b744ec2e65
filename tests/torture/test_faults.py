"""Faults under way: a trace that is cut or rewritten while it is read, a full disk, a broken or narrow terminal."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sim.errors import system_error
from tests.support.random_traces import recorded_trace
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.mapped import gather, load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def long_path(tmp_path):
    path = tmp_path / "long.safetensors"
    write_trace(path, recorded_trace(0, (0,), (4000,), num_layers=4, num_experts=64))
    return path


INTERLEAVED = np.arange(300).reshape(3, 100).T.reshape(-1) + np.tile([0, 1000, 2000], 100)
"""Rows of three requests in lockstep."""


@pytest.mark.parametrize(
    "rows",
    [np.arange(4000), np.arange(3990, 4000), np.array([3, 1, 3999]), np.array([5, 5, 6, 5]), INTERLEAVED],
    ids=["all", "last", "scattered", "repeated", "interleaved"],
)
def test_rows_of_a_mapped_trace_are_copies_of_what_the_file_holds(long_path, rows):
    trace = read_trace(long_path)
    found = gather(trace.topk_ids, rows)
    np.testing.assert_array_equal(found, np.asarray(trace.topk_ids)[rows])
    found[:] = 0  # nobody else's memory
    np.testing.assert_array_equal(load(trace.router_logits.values), trace.router_logits.values)


@pytest.mark.parametrize("rows", [np.arange(4000), np.array([3, 1, 3999])])
@pytest.mark.parametrize("change", ["cut", "emptied", "longer", "rewritten"])
def test_a_trace_that_changes_while_it_is_read_ends_in_a_sentence_not_in_a_crash(long_path, change, rows):
    trace, size = read_trace(long_path), long_path.stat().st_size
    if change == "rewritten":
        with long_path.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"\xff" * 1000)
        os.utime(long_path, ns=(1, 1))  # as if the clock had ticked
    else:
        os.truncate(long_path, {"cut": size // 2, "emptied": 0, "longer": size + 1}[change])
    with pytest.raises(UserError, match="was changed while it was read"):
        gather(trace.topk_ids, rows)


def test_no_row_is_read_through_the_mapping_of_a_file_that_was_cut(long_path):
    """Touching a page beyond the end of a mapped file ends the process with SIGBUS."""
    trace = read_trace(long_path)
    os.truncate(long_path, 0)
    for rows in (np.arange(4000), np.array([3, 1, 3999]), INTERLEAVED):
        with pytest.raises(UserError, match="was changed while it was read"):
            gather(trace.router_logits.values, rows)


def test_a_trace_that_is_replaced_while_it_is_read_stays_the_old_one(long_path):
    trace = read_trace(long_path)
    before = np.array(trace.topk_ids)
    other = long_path.with_suffix(".new")
    write_trace(other, recorded_trace(1, (0,), (4000,), num_layers=4, num_experts=64))
    other.replace(long_path)
    np.testing.assert_array_equal(load(trace.topk_ids), before)


def command(*arguments, **changes):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | changes
    argv = [sys.executable, "-m", "sim", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=300)


def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path):
    from dataclasses import replace

    trace = recorded_trace(0)
    path = tmp_path / "t.safetensors"
    write_trace(path, replace(trace, geometry=replace(trace.geometry, model="\ud800 für 模型")))
    done = command("info", path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\ud800 f\\xfcr" in done.stdout


def test_an_output_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    done = command("run", f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


def test_what_the_machine_refuses_is_one_sentence():
    full = OSError(28, "No space left on device", "out/metrics.json")
    assert system_error(full) == "out/metrics.json: No space left on device"
    assert system_error(MemoryError("Unable to allocate 3 TiB")).endswith("not enough memory: Unable to allocate 3 TiB")
    assert system_error(MemoryError()) == "there is not enough memory"


def test_an_interrupt_that_a_library_swallowed_is_still_an_interrupt(monkeypatch, capsys):
    import signal

    import sim.__main__ as program

    class Command:
        """Goes on after Ctrl-C and fails for want of what it had not made yet."""

        @staticmethod
        def main(_: list[str]) -> int:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise UserError("half of a configuration") from None
            return 0

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(program, "load", lambda name: Command)
    try:
        assert program.main(["info", "x"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted\n"
