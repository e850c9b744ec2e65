"""The study of long prompts: a known case in order of magnitude, and its page."""

import re

import numpy as np
import pytest

from scripts.studies.long_prompts import (
    FETCHES,
    FILE,
    FREETOKEN,
    RATES,
    Published,
    evenly,
    fetches,
    freetoken,
    one_prompt,
    page,
)
from sim.machine.model import load_geometry
from sim.paths import ROOT
from traces.embedded import embedded_trace_path
from traces.format.files import read_trace


def test_a_prompt_is_all_rows_but_the_last():
    demo = read_trace(embedded_trace_path())
    made = one_prompt(demo, 300)
    assert made.phase.tolist() == [0] * 300 + [1] and made.contexts().tolist() == [0]
    assert np.array_equal(made.topk_ids, demo.topk_ids[:301])


def test_evenly_drawn_experts_are_distinct():
    ids = np.sort(evenly(load_geometry("qwen3_next_80b_a3b"), 20).topk_ids.astype(int), axis=-1)
    assert (np.diff(ids, axis=-1) > 0).all() and ids.max() < 512


def test_the_page_states_what_the_study_found():
    text = (ROOT / FILE).read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    by_order = {row[0].strip("`"): int(row[2].replace(",", "")) for row in rows[1:3]}
    assert FETCHES["token"] / 2 < by_order["token"] < 2 * FETCHES["token"] and by_order["expert"] <= FETCHES["expert"]
    end = 4 + len(RATES)
    times = {int(row[0].replace(",", "")): {"stream": float(row[2]), "expert": float(row[4])} for row in rows[4:end]}
    assert list(times) == list(RATES)
    passes = [float(row[4]) for row in rows[end + 1 :]]
    assert "\n".join(page(by_order, times, passes)) + "\n" == text
    assert not re.search(r"nan|inf", text.replace("information", ""))


def test_what_freetoken_streams_is_predicted_from_its_link_alone():
    """One pass of 8,192 tokens within a tenth of what the paper reports, nothing calibrated."""
    assert -0.1 < FREETOKEN[0].error(freetoken(FREETOKEN[0])) < 0.1


def test_errors_are_those_to_the_nearer_end_of_a_range():
    row = Published("m", 1, 1.0, 2.0, 4.0)
    assert [row.error(seconds) for seconds in (1.0, 3.0, 5.0)] == [-0.5, 0.0, 0.25]


@pytest.mark.slow
def test_by_token_an_expert_is_fetched_again_and_again_and_by_expert_once():
    found = fetches()
    assert found["expert"] <= FETCHES["expert"] == 30 * 128
    assert FETCHES["token"] / 2 < found["token"] < 2 * FETCHES["token"]
