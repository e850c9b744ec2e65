"""FIFOs, sockets, devices and folders where a file is read: one sentence, no waiting."""

import os

import pytest

from scripts.torture.special import KINDS
from sim.machine.hardware import load_hardware
from sim.plain_yaml import read_plain_yaml
from sim.results.json_files import read_json
from sim.results.run_files import read_table
from traces.errors import UserError
from traces.format.files import read_trace
from traces.importers._sources import npz_names, numbered_lines, sha256_of
from traces.recording.prompts import read_prompts

READERS = {
    "trace": read_trace,
    "hardware": lambda path: load_hardware(str(path)),
    "yaml": lambda path: read_plain_yaml(path, "the file"),
    "json": read_json,
    "parquet": lambda path: read_table(path, ("group",)),
    "lines": lambda path: list(numbered_lines(path)),
    "npz": npz_names,
    "prompts": lambda path: read_prompts(str(path), None, 0, None),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("/dev/null", "nothing")])
def test_no_reader_waits_for_what_is_no_file(kind, reader, tmp_path):
    path = tmp_path / "a.yaml"
    KINDS[kind](path)
    with pytest.raises((UserError, OSError)) as refused:
        READERS[reader](path)
    assert "\n" not in str(refused.value)


def test_the_sentence_says_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="is a FIFO: must be a file"):
        read_trace(tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="is a FIFO: must be a file"):
        sha256_of(tmp_path / "t.safetensors")
