"""Long replays on the SimPy clock are told once that there is a faster one."""

from types import SimpleNamespace

import pytest

from sim.run.execute import hint_at_compiled


@pytest.mark.parametrize(
    ("engine", "timed", "steps", "said"),
    [("simpy", True, 200_000, 1), ("simpy", True, 10, 0), ("compiled", True, 200_000, 0), ("simpy", False, 200_000, 0)],
)
def test_only_a_long_timed_simpy_replay_is_told(engine, timed, steps, said, capsys):
    replay = SimpleNamespace(timed=timed, run=SimpleNamespace(engine=engine), trace=SimpleNamespace(num_layers=6))
    hint_at_compiled(replay, steps)
    text = capsys.readouterr().err
    assert text.count("\n") == said and ("engine=compiled" in text) == bool(said)
