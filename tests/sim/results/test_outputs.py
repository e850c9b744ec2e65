"""Tables as files."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from sim.results.json_files import write_json
from sim.results.table_file import TableFile, write_table


def test_columns_of_every_kind_come_back_from_a_table(tmp_path):
    columns = {
        "whole": np.arange(-3, 4),
        "small": np.arange(7, dtype=np.uint8),
        "share": np.array([0.5, np.nan, np.inf, -0.0, 1e300, 1, 2]),
        "strided": np.arange(14)[::2],
    }
    write_table(tmp_path / "a.parquet", columns)
    read = pq.read_table(tmp_path / "a.parquet")
    for name, column in columns.items():
        np.testing.assert_array_equal(read[name].to_numpy(), column)
        assert read[name].to_numpy().dtype == column.dtype
        assert read[name].null_count == 0


def test_two_processes_never_write_into_each_others_unfinished_file(tmp_path, monkeypatch):
    first = TableFile(tmp_path / "a.parquet")
    monkeypatch.setattr("os.getpid", lambda: 1)
    second = TableFile(tmp_path / "a.parquet")
    with first, second:
        first.write({"x": np.arange(5)})
        second.write({"x": np.arange(7)})
    assert pq.read_table(tmp_path / "a.parquet").num_rows in (5, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_disk_that_is_full_leaves_neither_the_file_nor_a_part_of_it(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.json").write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "a.json", {"new": 1})
    with pytest.raises(OSError, match="No space left"):
        write_table(tmp_path / "a.parquet", {"x": np.arange(5)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"
