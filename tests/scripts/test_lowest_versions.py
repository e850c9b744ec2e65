"""The constraints for the lowest versions follow from pyproject.toml."""

import pytest

from scripts.maintenance.lock import HEAVY
from scripts.maintenance.lowest import lowest, main


def test_every_dependency_states_its_lowest_version(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lowest"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert {"numpy", "pandas", "torch", "transformers"} <= {line.partition("==")[0] for line in lines}
    assert all(line.partition("==")[2][0].isdigit() for line in lines)
    monkeypatch.setattr("sys.argv", ["lowest", "core"])
    main()
    assert {*lines} - {*capsys.readouterr().out.splitlines()} == {
        line for line in lines if line.partition("==")[0] in HEAVY
    }


def test_the_lower_bound_is_taken_and_a_missing_one_is_told():
    assert lowest(["numpy>=2.1", "hydra-core>=1.3.2,<1.4"]) == {"numpy": "2.1", "hydra-core": "1.3.2"}
    with pytest.raises(ValueError, match="tqdm has 0 lowest versions"):
        lowest(["tqdm"])
