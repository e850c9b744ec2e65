"""A few steps of a run's timeline for print: what GPU, link and CPU did when."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sim.figures.chart_parts import legend_above
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, WIDTH_IN, YELLOW, add_footnote
from traces.errors import UserError
from traces.whole_input import parse_json, read_bounded, unpacked

FILE = "timeline.json.gz"
SHOWN_STEPS = 2
MOST_BYTES, MOST_VALUES = 1 << 26, 1 << 24
LANES = {2: "GPU", 7: "host", 4: "link", 5: "link back", 6: "CPU", 8: "storage"}
"""Track -> lane, from top to bottom; those of a second GPU follow, with its number."""

ALWAYS = ("GPU", "link", "CPU")
"""Lanes that are shown even if nothing happens in them."""
LABEL_POINTS, EDGE_POINTS = 14.0, 3.0
"""Width from which on a copy or a CPU expert bears its expert's number, and a bar has an edge."""

# Word, colour and hatching of every kind of slice: waits are hatched, what is done for later or for others is dotted.
LOOKS = {
    "attention": ("attention", SKY, ""),
    "host": ("host decisions, issue copies", "#62809C", ""),
    "launch": ("launches", "#B0B0B0", ""),
    "shared": ("shared experts, head", "#DDDDDD", ""),
    "hit": ("expert: hit", GREEN, ""),
    "late": ("expert: late", YELLOW, ""),
    "fetch": ("expert: fetched", PURPLE, "xxxx"),
    "replacement": ("expert: replacement", GREEN, "...."),
    "wait_link": ("wait for link", "white", "////"),
    "wait_cpu": ("wait for CPU", "white", "\\\\\\\\"),
    "wait_storage": ("wait for the last tier", "white", "----"),
    "sync": ("synchronise, read back", BLACK, ""),
    "handover": ("take over activations", "#999933", ""),
    "demand": ("copy: demand", VERMILLION, ""),
    "prefetch": ("copy: prefetch", ORANGE, "...."),
    "cpu": ("expert on CPU", BLUE, ""),
    "read": ("read from the last tier", "#8C6D31", ""),
}
SAME = {"head": "shared", "issue": "host", "degrade": "fetch", "back": "demand"}
"""Kinds that look like another."""


class Bar(NamedTuple):
    """A slice of a lane, in milliseconds since the first step shown."""

    lane: str
    kind: str
    name: str
    begin_ms: float
    length_ms: float


def timeline_file(table: pd.DataFrame) -> Path | None:
    """The timeline of the first run in the table that has one."""
    files = (Path(str(folder)) / FILE for folder in table["folder"])
    return next((file for file in files if file.is_file()), None)


@declare(
    "timeline", "what GPU, link and CPU did in a few steps of a run", place=150, options=("steps",), in_report=False
)
def timeline(table: pd.DataFrame, columns: int = 2, steps: tuple[int, int] | None = None) -> Figure:
    """What GPU, link and CPU did in a few steps of one run; thin lines are the beginnings of layers.

    ``steps``: the first and the last one to show; without it two, the first a decode step of median length.

    Raises: UserError when no run in the table has a timeline, or when it does not hold these steps.
    """
    path = timeline_file(table)
    if path is None:
        raise MissingData(f"no run in the folder has a {FILE}: run it with timeline=true")
    events = read_events(path)
    first, last = steps or typical(events)
    begin_us, end_us = span(events, first, last)
    bars = bars_within(events, begin_us, end_us)
    lanes = lanes_of(events, bars)
    figure = Figure(figsize=(WIDTH_IN[columns], 0.9 + 0.36 * len(lanes)), layout="constrained")
    panel = figure.subplots()
    points_per_ms = 72 * 0.93 * WIDTH_IN[columns] / ((end_us - begin_us) / 1e3 or 1.0)
    for bar in bars:
        _draw(panel, bar, [*lanes].index(bar.lane), bar.length_ms * points_per_ms)
    _mark_layers(panel, events, begin_us, end_us)
    panel.set_yticks(range(len(lanes)), [*lanes.values()])
    panel.set_ylim(len(lanes) - 0.5, -0.5)
    panel.set_xlim(0, (end_us - begin_us) / 1e3)
    panel.set_xlabel(f"Time since the start of step {first} (ms)")
    panel.grid(visible=False)
    panel.tick_params(axis="y", length=0)
    kinds = [kind for kind in LOOKS if any(bar.kind == kind for bar in bars)]
    handles = [_patch(kind) for kind in kinds]
    legend_above(figure, (handles, [LOOKS[kind][0] for kind in kinds]))
    run = table[table["folder"].astype(str) == str(path.parent)]
    policy = f"policy {run['policy'].iloc[0]}, capacity {100 * float(run['capacity'].iloc[0]):.4g} %, "
    label, _, rest = footnote(run, interval=False).partition(": ")
    add_footnote(figure, f"{label}: {policy}{rest}", shares(bars, first, last, (end_us - begin_us) / 1e3))
    return figure


def lane_of(event: dict[str, Any]) -> str:
    """The lane of a slice or of a track's name."""
    name = LANES[event["tid"]]
    return name if event["pid"] == 1 else f"{name} {event['pid']}"


def lanes_of(events: list[dict[str, Any]], bars: list[Bar]) -> dict[str, str]:
    """The lanes of every GPU and what the file calls them, from top to bottom, without those that stay empty and need
    not be shown."""
    named = [event for event in events if event.get("name") == "thread_name" and event["tid"] in LANES]
    order = sorted(named, key=lambda event: (event["pid"], [*LANES].index(event["tid"])))
    used = {bar.lane for bar in bars}
    names = {lane_of(event): event["args"]["name"] + lane_of(event)[len(LANES[event["tid"]]) :] for event in order}
    return {lane: name for lane, name in names.items() if lane.split(" 2")[0] in ALWAYS or lane in used}


def shares(bars: list[Bar], first: int, last: int, length_ms: float) -> str:
    """How much of the steps shown the GPU waits and the link copies."""
    wait = sum(bar.length_ms for bar in bars if bar.lane.startswith("GPU") and bar.kind.startswith("wait"))
    copies = sum(bar.length_ms for bar in bars if bar.lane in ("link", "link 2"))
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    return (
        f"In {steps} the GPU waits for {100 * wait / length_ms:.0f} % of the time and the link copies for "
        f"{100 * copies / length_ms:.0f} %."
    )


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events of a timeline. Raises: UserError where the file is broken."""
    name = f"the timeline {path}"
    content = parse_json(unpacked(read_bounded(path, MOST_BYTES, "the timeline"), name), name, MOST_VALUES)
    events = content.get("traceEvents") if isinstance(content, dict) else None
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise UserError(f"{name} is broken: it must hold a list traceEvents")
    return events


def step_events(events: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The slice of every step by its number."""
    return {event["args"]["step"]: event for event in events if event["ph"] == "X" and "step" in event["args"]}


def typical(events: list[dict[str, Any]]) -> tuple[int, int]:
    """Consecutive steps, the first one of median length among decode steps, or among all where there are none."""
    steps = step_events(events)
    numbers = [number for number, event in steps.items() if event["cat"] == "decode"] or list(steps)
    by_length = sorted(numbers, key=lambda number: (steps[number]["dur"], number))
    first = by_length[len(by_length) // 2]
    return first, min(first + SHOWN_STEPS - 1, max(steps))


def span(events: list[dict[str, Any]], first: int, last: int) -> tuple[float, float]:
    """When step ``first`` begins and step ``last`` ends, in microseconds."""
    steps = step_events(events)
    for number in (first, last):
        if number not in steps:
            raise UserError(f"steps={first}-{last}: the timeline holds steps {min(steps)} to {max(steps)}")
    end = steps[last]
    return float(steps[first]["ts"]), float(end["ts"] + end["dur"])


def bars_within(events: list[dict[str, Any]], begin_us: float, end_us: float) -> list[Bar]:
    """The slices of all lanes between two moments, cut at both."""
    bars = []
    for event in events:
        if event["ph"] != "X" or event["tid"] not in LANES:
            continue
        begin, end = max(event["ts"], begin_us), min(event["ts"] + event["dur"], end_us)
        if begin < end:
            at_ms, length_ms = (begin - begin_us) / 1e3, (end - begin) / 1e3
            bars.append(Bar(lane_of(event), kind_of(event), event["name"], at_ms, length_ms))
    return bars


def kind_of(event: dict[str, Any]) -> str:
    """How a slice is drawn: experts by outcome, copies by what they are for, the rest by category."""
    kind = {"expert": event["args"].get("outcome"), "fetch": "demand"}.get(event["cat"], event["cat"])
    return SAME.get(str(kind), str(kind))


def _draw(panel: Axes, bar: Bar, row: int, width_points: float) -> None:
    """A bar; hatching and edges only where they do not fill it."""
    _, color, hatch = LOOKS[bar.kind]
    edge = "#555555" if hatch else "white" if width_points >= EDGE_POINTS else color
    panel.barh(
        row, bar.length_ms, left=bar.begin_ms, height=0.7, color=color, hatch=hatch, edgecolor=edge,
        linewidth=0.2 if width_points >= EDGE_POINTS else 0,
    )  # fmt: skip
    if bar.lane.removesuffix(" 2") in ("link", "CPU") and width_points >= LABEL_POINTS:
        expert = bar.name.split()[1]
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        centre = bar.begin_ms + bar.length_ms / 2
        panel.text(centre, row, expert, ha="center", va="center", fontsize=5.5, bbox=box)


def _mark_layers(panel: Axes, events: list[dict[str, Any]], begin_us: float, end_us: float) -> None:
    """A line where each layer begins, with its name where there is room."""
    begins = [
        (str(event["name"]).split()[0], (event["ts"] - begin_us) / 1e3)
        for event in events
        if event["ph"] == "X" and event["cat"] == "attention" and begin_us <= event["ts"] < end_us
    ]
    every = -(-len(begins) // 16)
    for i, (name, at_ms) in enumerate(begins):
        panel.axvline(at_ms, color="#777777", linewidth=0.9 if name == "L0" else 0.4, zorder=0.5)
        if i % every == 0:
            panel.annotate(
                name, (at_ms, 1), xycoords=("data", "axes fraction"), xytext=(1.5, 1), textcoords="offset points",
                fontsize=6,
            )  # fmt: skip


def _patch(kind: str) -> Patch:
    word, color, hatch = LOOKS[kind]
    return Patch(facecolor=color, hatch=hatch, edgecolor="#555555", linewidth=0.3, label=word)
