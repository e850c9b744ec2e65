"""Tables as files."""

import numpy as np
import pyarrow.parquet as pq

from sim.outputs import write_table


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
