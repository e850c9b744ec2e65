"""The timeline as a figure: bars worked out by hand, which steps it shows, and what it refuses."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from sim.figures.drawings.timeline import (
    FILE,
    LANES,
    LOOKS,
    Bar,
    bars_within,
    kind_of,
    read_events,
    span,
    timeline,
    typical,
)
from sim.timeline.event_file import NAME, TimelineFile
from sim.timeline.slices import OUTCOMES, PART_WORDS, REPLACEMENT, TRACKS
from tests.support.random_traces import routed
from tests.support.replays import machine, replay_of
from traces.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A prefill of A B, then A, B, C, C: layers of 5 us, copies of 1 us, experts of 250 ns, two slots."""
    ids = np.array([[[0]], [[1]], [[0]], [[1]], [[2]], [[2]]])
    hardware = machine(gpu_memory_bytes_per_s=4e9, host_s_per_layer=5e-6)
    replay = replay_of(routed(ids, 4, [2], [6]), "lru", hardware, slots_per_layer=2, timeline=True)
    with TimelineFile(tmp_path / NAME, replay) as file:
        for result in replay.blocks():
            file.add(result)
    return tmp_path


def table(*folders):
    return pd.DataFrame({
        "folder": [str(folder) for folder in folders], "policy": "lru", "capacity": 0.5, "label": "SIMULATED",
        "estimated": [("sizes are invented",)] * len(folders), "requests": 1, "batch_size": 1,
    })  # fmt: skip


def test_bars_by_hand(folder):
    events = read_events(folder / NAME)
    assert span(events, 3, 3) == (17.5 + 0.25, 24.0)  # prefill 7.5 us; A and B hit in 5.25 us each; C is fetched
    bars = bars_within(events, *span(events, 3, 3))
    expected = [
        Bar("host", "host", "L0 host decisions", 0.0, 0.005),
        Bar("GPU", "wait_link", "L0 E2 wait for link", 0.005, 0.001),
        Bar("GPU", "fetch", "L0 E2 fetch", 0.006, 0.00025),
        Bar("link", "demand", "L0 E2 fetch", 0.005, 0.001),
    ]
    for bar, known in zip(sorted(bars), sorted(expected), strict=True):
        assert bar[:3] == known[:3]
        assert bar[3:] == pytest.approx(known[3:])


def test_slices_are_cut_at_the_window(folder):
    bars = bars_within(read_events(folder / NAME), 1.0, 2.0)
    assert [bar[1:] for bar in bars] == [("host", "L0 host decisions", 0.0, pytest.approx(0.001))]


def test_a_step_of_median_length_is_shown(folder):
    """Decode steps 1 to 4 take 5.25, 5.25, 6.25 and 5.25 us: the third shortest is the last of the equal ones."""
    assert typical(read_events(folder / NAME)) == (4, 4)


def test_the_figure_has_its_lanes_and_says_what_it_is(folder):
    runs = table(folder)
    figure = timeline(runs, 2, (3, 4))
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["GPU", "host", "link", "CPU"]
    assert panel.get_xlabel() == "Time since the start of step 3 (ms)"
    assert panel.get_xlim() == (0, pytest.approx(0.0115))
    assert [text.get_text() for text in panel.texts][:2] == ["E2", "L0"]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["host decisions, issue copies", "expert: hit", "expert: fetched", "wait for link", "copy: demand"]
    said = figure.texts[0].get_text().replace("\n", " ")
    assert said == "SIMULATED: policy lru, capacity 50 %, batch size 1. ESTIMATED: sizes are invented."


def test_every_kind_of_slice_has_a_look():
    outcomes = [{"cat": "expert", "args": {"outcome": word}} for word in (*OUTCOMES, REPLACEMENT)]
    never_on_a_gpu = {"substitute", "drop"}
    parts = [{"cat": category, "args": {}} for category, _ in PART_WORDS.values()]
    words = ("attention", "launch", "fetch", "prefetch", "back", "cpu", "read", "handover")
    others = [{"cat": word, "args": {}} for word in words]
    assert {kind_of(event) for event in (*outcomes, *parts, *others)} - never_on_a_gpu == set(LOOKS)
    assert all(TRACKS[track] == lane for track, lane in LANES.items())
    assert FILE == NAME


def test_what_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="run it with timeline=true"):
        timeline(table(tmp_path / "nothing"))
    with pytest.raises(UserError, match="the timeline holds steps 0 to 4"):
        timeline(table(folder), steps=(3, 5))
    (folder / NAME).write_bytes((folder / NAME).read_bytes()[:50])
    with pytest.raises(UserError, match="is broken"):
        timeline(table(folder))
    (folder / NAME).write_bytes(gzip.compress(json.dumps({}).encode()))
    with pytest.raises(UserError, match="is broken"):
        timeline(table(folder))
