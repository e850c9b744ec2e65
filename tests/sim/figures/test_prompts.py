"""Figures of chats and of long prompts, drawn from runs of a few requests."""

import pandas as pd
import pytest

from sim.assembly.compose import compose_run
from sim.figures.drawing import MissingData
from sim.figures.drawings.long_prompt import _conclusion, long_prompt
from sim.figures.drawings.turns import turns
from sim.figures.run_table import study
from sim.run.execute import execute
from tests.support.tables import footnote_of, legend

FEW = ("policy=lru", "engine=compiled", "trace.requests=4", "session.prompt_rows=8", "sweep.steps=false")


def conclusion_of(figure):
    return figure.texts[1].get_text().replace("\n", " ")


def runs(folder, *settings):
    for number, words in enumerate(settings):
        execute(compose_run(*FEW, *words), folder / str(number))
    return study(folder)


def test_ttft_over_the_turn_has_a_line_per_kept_state(tmp_path):
    table = runs(tmp_path, ("session.turns=2",), ("session.turns=2", "session.keep=none"))
    figure = turns(table, 2)
    (panel,) = figure.axes
    kept, lost = (drawn.lines[0].get_ydata() for drawn in panel.containers)
    assert len(kept) == len(lost) == 2 and lost[1] > kept[1]
    assert legend(figure) == ["KV cache and experts kept", "both lost"]
    assert "over 2 chats" in footnote_of(figure) and "with both lost" in conclusion_of(figure)
    with pytest.raises(MissingData, match="figure=turns needs runs whose requests are turns"):
        turns(table.assign(folder=str(tmp_path / "0")).head(0), 2)


def test_ttft_over_the_prompt_has_a_line_per_order(tmp_path):
    words = [
        (f"session.prompt_rows={rows}", f"prefill.order={order}", "prefill_chunk=4")
        for rows in (4, 16)
        for order in ("token", "chunk", "stream")
    ]
    table = runs(tmp_path, *words)
    figure = long_prompt(table, 2)
    (panel,) = figure.axes
    assert legend(figure) == ["by token", "by chunks of 4", "by layer, streamed"]
    token, chunk, stream = (drawn.lines[0].get_ydata() for drawn in panel.containers)
    assert token[1] > chunk[1] and token[1] > 2 * token[0] and stream[1] < 1.2 * stream[0]
    assert "At 16 tokens under lru the first token comes soonest" in conclusion_of(figure)
    with pytest.raises(MissingData, match="figure=long_prompt needs runs of two lengths"):
        long_prompt(table.head(1), 2)


def test_orders_that_take_as_long_are_named_together():
    told = [(120.0, "by token"), (10.001, "by expert"), (10.0, "past it"), (16.4, "streamed")]
    frame = pd.DataFrame(
        {"policy": "lru", "tokens": 128.0, "ttft_s.mean": [time for time, _ in told],
         "order_of": [(place, 0, label) for place, (_, label) in enumerate(told)]}
    )  # fmt: skip
    assert _conclusion(frame, "lru") == (
        "At 128 tokens under lru the first token comes soonest past it and by expert; it takes 1.64 times as long "
        "streamed, 12 times as long by token."
    )
    assert _conclusion(frame[1:3], "lru").endswith("soonest past it and by expert.")
