"""Every reader, given what is far larger inside than on disk: refused in a sentence, in memory that stays small."""

from pathlib import Path

import pytest

from tests.support.oversized import MB, cases, peak_bytes, reset_peak
from traces.errors import UserError

MOST = 256 * MB
MADE_ANEW = "results.parquet"
"""A gathered table that cannot be read is computed again."""


@pytest.mark.slow
def test_every_input_has_one_budget_as_a_whole(tmp_path: Path) -> None:
    refused = 0
    for name, read in cases(tmp_path, 1):
        number = name.split()[-1].removesuffix(".yaml").rpartition("=")[2]
        reset_peak()
        before = peak_bytes()
        if name.startswith(MADE_ANEW):
            assert not read(tmp_path / "none"), name
        else:
            with pytest.raises(UserError):
                read(tmp_path / f"{number}.yaml")
                pytest.fail(f"{name} was read")
            refused += 1
        assert peak_bytes() - before < MOST, name
    assert refused > 50
