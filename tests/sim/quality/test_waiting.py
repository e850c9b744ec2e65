"""What is told, and left out, where an evaluation has to be quick."""

import pytest
import torch

from sim.quality.progress import Lines
from sim.quality.settings import QualityConfig, StudyConfig, quickened
from sim.quality.threads import fitting_threads


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_small_model_runs_on_one_thread():
    torch.set_num_threads(2)
    with fitting_threads(torch.nn.Linear(4, 4)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_quick_measures_a_third_and_says_how_much_wider_intervals_are():
    less, said = quickened(StudyConfig(QualityConfig(quick=True)))
    assert (less.quality.windows, less.cloze.items, less.generation.windows, less.lines.items) == (8, 8, 3, 16)
    assert said == ("quick=true: 8 of 24 windows, so intervals are about 1.7 times as wide",)
    assert quickened(StudyConfig()) == (StudyConfig(), ())


def test_without_a_terminal_a_line_a_minute_tells_the_time_that_is_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    bar = Lines("quality", 100)
    for second in range(180):
        now[0] = float(second + 1)
        bar.update(0.25)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[0] == "quality: 15% done in 1 min, 5.7 min to go"
