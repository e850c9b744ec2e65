"""The timeline file: events worked out by hand, then that nothing of the clock is missing or shown twice."""

import gzip
import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings

from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig
from sim.engine.decision.counters import COUNTERS
from sim.machine.capacity import CacheConfig
from sim.machine.devices import DevicesConfig
from sim.machine.parts import PARTS
from sim.metrics.step_table import COLUMNS, StepTable
from sim.timeline.event_file import NAME, TimelineFile
from sim.timeline.slices import OUTCOMES, REPLACEMENT, STAGING, TRACKS
from tests.sim.engine.test_engines_agree import cases, drawn
from tests.support.random_traces import random_trace, routed
from tests.support.replays import BARE, POLICIES, machine, replay_of
from tests.support.timelines import rows

PART_OF = {
    "wait_link": "link", "wait_cpu": "cpu", "sync": "sync", "issue": "host", "shared": "expert", "head": "attention",
}  # fmt: skip


def written(replay, folder, steps=None):
    """(events of the timeline of the first ``steps`` steps, table of all steps)."""
    replay.setup = replace(replay.setup, run=replace(replay.run, timeline=True, timeline_steps=steps))
    table = StepTable(replay)
    with TimelineFile(folder / NAME, replay) as timeline:
        for result in replay.blocks():
            table.add(result)
            timeline.add(result)
    assert [path.name for path in folder.iterdir()] == [NAME]
    document = json.loads(gzip.decompress((folder / NAME).read_bytes()))
    assert document["otherData"]["label"] == "SIMULATED"
    return document["traceEvents"], table


def begin_ns(event):
    return round(event["ts"] * 1000)


def end_ns(event):
    return begin_ns(event) + round(event["dur"] * 1000)


def slices(events, track):
    """(name, begin, end) in nanoseconds."""
    found = [event for event in events if event["ph"] == "X" and event["tid"] == track]
    return [(event["name"], begin_ns(event), end_ns(event)) for event in found]


def track(name):
    return next(number for number, title in TRACKS.items() if title == name)


def test_two_steps_by_hand(tmp_path):
    """A, A again, one layer: host time 5 us, the copy 1 us, the expert 250 ns; it hits the second time."""
    trace = routed(np.zeros((2, 1, 1), np.int64), 4, [0], [2])
    hardware = machine(gpu_memory_bytes_per_s=4e9, host_s_per_layer=5e-6)
    events, _ = written(replay_of(trace, "lru", hardware, slots_per_layer=2, timeline=True), tmp_path)
    assert slices(events, track("GPU")) == [
        ("L0 attention", 0, 0),
        ("L0 E0 wait for link", 5000, 6000),
        ("L0 E0 fetch", 6000, 6250),
        ("L0 attention", 6250, 6250),
        ("L0 E0 hit", 11250, 11500),
    ]
    assert slices(events, track("host")) == [("L0 host decisions", 0, 5000), ("L0 host decisions", 6250, 11250)]
    assert slices(events, track("link")) == [("L0 E0 fetch", 5000, 6000)]
    arrows = [(event["ph"], event["tid"], event["ts"], event["id"]) for event in events if event["ph"] in "sf"]
    assert arrows == [("s", track("link"), 5.0, 1), ("f", track("GPU"), 6.0, 1)]
    assert slices(events, track("steps")) == [
        ("step 0 decode request 0", 0, 6250),
        ("step 1 decode request 0", 6250, 11500),
    ]
    counts = [(event["name"], begin_ns(event), event["args"]) for event in events if event["ph"] == "C"]
    assert counts == [
        ("queued copies", 5000, {"demand": 1, "prefetch": 0}),
        ("experts in slots", 5000, {"experts": 0}),
        ("bytes in slots", 5000, {"bytes": 0}),
        ("queued copies", 11250, {"demand": 0, "prefetch": 0}),
        ("experts in slots", 11250, {"experts": 1}),
        ("bytes in slots", 11250, {"bytes": 1000}),
    ]


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_a_substitute_names_who_stands_in(engine, tmp_path):
    """Two tokens, B and A of nearly the same score, in both steps: B is executed for both, in A's place too."""
    logits = np.full((4, 1, 4), -9.0, np.float32)
    logits[:, 0, :2] = [[1, 9], [9, 8.99], [9, 8.99], [8.99, 9]]
    trace = routed(np.array([[[1]], [[0]], [[0]], [[1]]]), 4, [0, 0], [2, 2], logits)
    setting = {"slots_per_layer": 2, "timeline": True, "batch_size": 2, "engine": engine}
    events, _ = written(replay_of(trace, "substitute", machine(), **setting), tmp_path)
    marks = [(event["name"], event["args"]) for event in events if event["ph"] == "i"]
    assert marks == 2 * [("L0 E0 substitute E1", {"outcome": "substitute", "by": [1]})]
    named = [event for event in events if event.get("cat") == "expert"]
    assert [event["name"] for event in named][-1] == "L0 E1 hit"
    assert named[-1]["args"]["in_place_of"] == [0]


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_a_replacement_and_a_wait_name_their_expert(engine, tmp_path):
    """B, then A alone: only B is executed, in A's place. Where C and D go to the CPU, the GPU waits for the last."""
    logits = np.full((2, 1, 4), -9.0, np.float32)
    logits[:, 0, :2] = [[1, 9], [9, 8.99]]
    trace = routed(np.array([[[1]], [[0]]]), 4, [0], [2], logits)
    setting = {"slots_per_layer": 2, "timeline": True, "engine": engine}
    events, _ = written(replay_of(trace, "substitute", machine(), **setting), tmp_path)
    assert [name for name, *_ in slices(events, track("GPU")) if "replacement" in name] == ["L0 E1 replacement for E0"]
    (tmp_path / "cpu").mkdir()
    trace = routed(np.array([[[0, 2, 3]]]), 4, [0], [1], np.zeros((1, 1, 4), np.float32))
    events, _ = written(replay_of(trace, "cpu", machine(0.75), **setting), tmp_path / "cpu")
    computed = [name.removesuffix(" cpu") for name, *_ in slices(events, track("CPU"))]
    waits = [name for name, *_ in slices(events, track("GPU")) if "wait for CPU" in name]
    assert waits == [f"{computed[-1]} wait for CPU"]


def test_experts_that_pass_by_the_cache_sit_in_staging_slots(tmp_path):
    """Nothing is kept: A B arrive at 1000 and 2000 ns and leave once executed, 500 ns later each."""
    trace = routed(np.array([[[0, 1]]]), 4, [0], [1])
    hardware = machine(gpu_memory_bytes_per_s=2e9)
    events, _ = written(replay_of(trace, "on_demand", hardware, timeline=True), tmp_path)
    assert slices(events, STAGING) == [("L0 E0 staged", 0, 1500)]
    assert slices(events, STAGING + 1) == [("L0 E1 staged", 1000, 2500)]


def test_a_copy_that_a_reset_voids_is_cut_short(tmp_path):
    """Two requests of one step, B everywhere and resident, C wrongly foreseen: its copy begins at each first lookup."""
    logits, ahead = np.zeros((2, 2, 4), np.float32), np.zeros((2, 1, 4), np.float32)
    logits[..., 1], ahead[..., 2] = 9.0, 9.0
    trace = routed(np.ones((2, 2, 1), np.int64), 4, [0, 0], [1, 1], logits, lookahead=ahead)
    replay = replay_of(
        trace, "prefetch", machine(host_s_per_layer=300e-9), slots_per_layer=2, start="warm", reset="request",
        timeline=True,
    )  # fmt: skip
    events, _ = written(replay, tmp_path)
    assert slices(events, track("link")) == [("L1 E2 prefetch", 300, 900), ("L1 E2 prefetch", 900, 1900)]
    assert [event["args"] for event in events if event.get("cat") == "prefetch"] == [
        {"staged": 0, "void": 1}, {"staged": 0},
    ]  # fmt: skip


def assert_no_overlap(events):
    for number in {event["tid"] for event in events if event["ph"] == "X"}:
        last = 0
        for _, begin, end in slices(events, number):
            assert last <= begin <= end
            last = end


def assert_trace_event_format(events):
    """The members that the format requires of each phase, with their types."""
    kinds = {
        "X": {"pid": int, "tid": int, "ts": float, "dur": float, "name": str, "cat": str, "args": dict},
        "i": {"pid": int, "tid": int, "ts": float, "s": str, "name": str, "cat": str, "args": dict},
        "C": {"pid": int, "ts": float, "name": str, "args": dict},
        "M": {"pid": int, "tid": int, "name": str, "args": dict},
        "s": {"pid": int, "tid": int, "ts": float, "name": str, "cat": str, "id": int},
        "f": {"pid": int, "tid": int, "ts": float, "name": str, "cat": str, "id": int, "bp": str},
    }
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    for event in events:
        members = kinds[event["ph"]]
        assert event.keys() == {"ph", *members}
        assert all(isinstance(event[name], kind) for name, kind in members.items()), event
        if event["ph"] in "Xisf":
            assert event["tid"] in named
        if event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())


def on(process, events):
    """The events of one GPU."""
    return [event for event in events if event["pid"] == process]


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_two_gpus_have_tracks_of_their_own(engine, tmp_path):
    """Expert 0 of either layer in 1 us over the first link, 4 us over the second; 30 ns between; then both hit."""
    devices = DevicesConfig(2, second_link_bytes_per_s=2.5e8, handover_s=30e-9)
    trace = rows([[0], [0]], [[0], [0]], expert_bytes=(1000,) * 2)
    run = RunConfig(engine=engine, timeline=True)
    setup = DeviceSetup(BARE, machine(), CacheConfig(slots_per_layer=1), run, devices=devices)
    events, _ = written(assemble(trace, setup), tmp_path)
    assert_trace_event_format(events)
    first, second = on(1, events), on(2, events)
    assert slices(first, track("link")) == [("L0 E0 fetch", 0, 1000)]
    assert slices(second, track("link")) == [("L1 E0 fetch", 1030, 5030)]
    assert slices(first, track("GPU"))[1:] == [
        ("L0 E0 wait for link", 0, 1000), ("L0 E0 fetch", 1000, 1000), ("L0 attention", 5030, 5030),
        ("L0 E0 hit", 5030, 5030),
    ]  # fmt: skip
    handed = [("take over activations", 1000, 1030), ("take over activations", 5030, 5060)]
    assert [one for one in slices(second, track("GPU")) if "activations" in one[0]] == handed
    steps = [("step 0 decode request 0", 0, 5030), ("step 1 decode request 0", 5030, 5060)]
    assert (slices(first, track("steps")), slices(second, track("steps"))) == (steps, [])
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert [name.split(", ")[1] for name in names] == ["GPU 1 with layers 0 to 0", "GPU 2 with layers 1 to 1"]
    arrows = [event["id"] for event in events if event["ph"] == "s"]
    assert len(arrows) == len(set(arrows)) == 2


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_the_tracks_of_two_gpus_cover_the_clock_together(engine, tmp_path):
    """They run by turns, so what both do follows each other without a gap; the first steps alone are written."""
    trace = random_trace(5, 4, 8, 2, prompts=(3, 0), decodes=(9, 8), expert_bytes=1000)
    run, devices = RunConfig(engine=engine, timeline=True), DevicesConfig(2, first_layers=1, handover_s=70e-9)
    setup = DeviceSetup(POLICIES["cpu"], machine(), CacheConfig(slots_per_layer=3), run, devices=devices)
    events, table = written(assemble(trace, setup), tmp_path, 7)
    gpu = sorted(slices(events, track("GPU")) + slices(events, track("host")), key=lambda one: (one[1], one[2]))
    whole_ns = int(table.columns()["latency_ns"][:7].sum())
    assert gpu[0][1] == 0 and gpu[-1][2] == whole_ns
    assert all(one[2] == two[1] for one, two in pairwise(gpu))
    assert_no_overlap(on(1, events))
    assert_no_overlap(on(2, events))
    layers = {name.split()[0] for name, *_ in slices(on(2, events), track("GPU"))} - {"take", "head"}
    assert layers == {"L1", "L2", "L3"}


@settings(max_examples=60, deadline=None)
@given(cases)
def test_everything_is_shown_once(tmp_path_factory, case):
    assume(case["order"] != "stream")  # whole layers streamed keep no timeline, and say so
    assume("think_s" not in case["session"])  # a pause has no slice
    replay = drawn(case, "compiled")
    events, table = written(replay, tmp_path_factory.mktemp("t"))
    assert_trace_event_format(events)
    for process in range(1, len(replay.turns) + 1):
        assert_no_overlap(on(process, events))
    sums = dict(zip(COLUMNS, table.array().sum(axis=0).tolist(), strict=True))
    assert_gpu_covers_the_clock(events, sums)
    shown = Counter(event["args"]["outcome"] for event in events if "outcome" in event.get("args", {}))
    shown.pop(REPLACEMENT, None)
    assert sum(shown.values()) == sums["demanded"]
    assert [shown[word] for word in OUTCOMES] == [sums[name] for name in COUNTERS[: len(OUTCOMES)]]
    busy = {
        name: sum(end - begin for _, begin, end in slices(events, track(name)) if end <= sums["latency_ns"])
        for name in ("link", "CPU")
    }  # a prefetch that is still under way at the end has not arrived
    assert busy["CPU"] == replay.engine.cpu_busy_ns
    copied_ns = sum(turn.engine.link_busy_ns for turn in replay.turns)
    assert busy["link"] == copied_ns or replay.cache.resets  # which voids copies


def assert_gpu_covers_the_clock(events, sums):
    """What GPU and host do follows each other without a gap, and their parts are those that the metrics report."""
    gpu = sorted(slices(events, track("GPU")) + slices(events, track("host")), key=lambda one: (one[1], one[2]))
    assert gpu[0][1] == 0 and gpu[-1][2] == sums["latency_ns"]
    assert all(one[2] == two[1] for one, two in pairwise(gpu))
    spent = Counter()
    for event in events:
        if event["ph"] == "X" and event["tid"] in (track("GPU"), track("host")):
            category = "wait_link" if event["cat"] == "handover" else event["cat"]
            spent[category] += end_ns(event) - begin_ns(event)
    for category, part in PART_OF.items():
        if part in ("link", "cpu"):
            assert spent[category] == sums[f"{part}_ns"]
    assert sum(spent.values()) == sum(sums[f"{part}_ns"] for part in PARTS)


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_only_the_first_steps_are_written(tmp_path, engine):
    whole, part = (tmp_path / name for name in ("whole", "part"))
    whole.mkdir(), part.mkdir()
    trace = random_trace(3, prompts=(70, 3), decodes=(80, 5))
    everything, table = written(replay_of(trace, "prefetch", slots_per_layer=3, engine=engine, timeline=True), whole)
    replay = replay_of(trace, "prefetch", slots_per_layer=3, engine=engine, timeline=True)
    events, _ = written(replay, part, steps=70)
    assert slices(events, track("steps")) == slices(everything, track("steps"))[:70]
    gpu = slices(events, track("GPU"))
    assert gpu == slices(everything, track("GPU"))[: len(gpu)]
    assert gpu[-1][2] == table.array()[:70, COLUMNS.index("latency_ns")].sum()
    assert sum("outcome" in event.get("args", {}) for event in events) == (
        table.array()[:70, COLUMNS.index("demanded")].sum()
    )
    assert len(replay.engine.take_log()) == 0


def test_the_same_bytes_again_and_nothing_after_a_failure(tmp_path):
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(replay_of(random_trace(0), "importance", slots_per_layer=3, timeline=True), tmp_path / name)
        contents.append((tmp_path / name / NAME).read_bytes())
    assert contents[0] == contents[1]
    replay = replay_of(random_trace(0), "lru", timeline=True)
    with pytest.raises(RuntimeError), TimelineFile(tmp_path / "c" / NAME, replay):
        raise RuntimeError
    assert not list((tmp_path / "c").iterdir())
