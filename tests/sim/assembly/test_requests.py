"""Which requests a configuration replays, and what is noted of them."""

from dataclasses import replace

import numpy as np
import pytest

from sim.assembly.build import few_clusters, split_requests
from sim.assembly.catalogue import load_policy
from sim.assembly.notes import describe_replay
from sim.config import TraceConfig
from sim.predictors.split import split_requests as split_for_training
from sim.sweep.key import run_key
from tests.support.random_traces import random_trace
from tests.support.replays import machine, replay_of
from traces.errors import UserError


def labelled(labels: str):
    count = len(labels)
    return replace(random_trace(3, prompts=(2,) * count, decodes=(3,) * count), request_labels=tuple(labels))


def test_a_sample_leaves_out_what_a_policy_learns_from():
    trace, config = labelled("aaaabbbbccccdddd"), TraceConfig("demo", sample=6)
    replayed, others, _ = split_requests(trace, config, load_policy("moe_infinity_paper"), seed=2)
    assert others is not None and others.request_numbers.tolist() == [12, 13, 14, 15]
    assert replayed.num_requests == 6 and replayed.request_numbers.max() < 12
    assert {label: replayed.request_labels.count(label) for label in "abc"} == {"a": 2, "b": 2, "c": 2}
    again, *_ = split_requests(trace, config, load_policy("moe_infinity_paper"), seed=2)
    other, *_ = split_requests(trace, config, load_policy("moe_infinity_paper"), seed=3)
    assert np.array_equal(replayed.request_numbers, again.request_numbers)
    assert replayed.content_hash == again.content_hash != other.content_hash


def test_sample_and_seed_are_part_of_a_run_s_key():
    keys = {run_key({"trace": {"sample": sample}, "seed": seed}, "hash") for sample in (None, 4, 5) for seed in (0, 1)}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sample": 3, "requests": 2}, "trace.sample=3 and trace.requests=2 exclude each other"),
        ({"sample": 0}, "trace.sample=0: must be at least 1"),
        ({"sample": 9}, "trace.sample=9: the trace has 8 requests"),
        ({"sample": 7, "fit_requests": 2}, "trace.sample=7: the trace has 8 requests of which trace.fit_requests=2"),
    ],
)
def test_contradictory_samples_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        split_requests(labelled("abcdefgh"), TraceConfig("demo", **settings), load_policy("lru"))


def test_predictors_are_not_trained_on_samples():
    with pytest.raises(UserError, match="a predictor is tested on the first requests"):
        split_for_training(9, TraceConfig("demo", sample=3), 0.2, 0)


@pytest.mark.parametrize(
    ("labels", "count", "said"),
    [
        ("aaaabbbbccccdddd", 6, "the first 6 requests come from 2 of the 4 data sets or conversations"),
        ("abcdefghijklmnop", 6, None),
        ("aabbccddeeffgghhiijjkkllmmnnoopp", 14, "the first 14 requests come from 7 of the 16"),
        ("aaaa", 2, None),
    ],
)
def test_first_requests_from_few_data_sets_are_noted(labels, count, said):
    trace = labelled(labels)
    notes = few_clusters(trace, trace.select_requests(count))
    assert len(notes) == (said is not None)
    assert all(said in note and note.endswith(f"trace.sample={count} takes as many from all") for note in notes)


def test_a_run_repeats_which_figures_of_its_machine_were_not_measured_in_quiet():
    quiet = machine()
    source = "MEASURED: by calibrate; n=3, 9 dropped for foreign load, NOT QUIET: the rest is the least disturbed"
    loud = replace(quiet, hardware=replace(quiet.hardware, sources={"link_bytes_per_s": source}, label="MEASURED"))
    said = [describe_replay(replay_of(random_trace(0), "lru", found)).warnings for found in (quiet, loud)]
    assert not any("NOT QUIET" in sentence for sentence in said[0])
    assert any("NOT QUIET: hardware.link_bytes_per_s of test; calibrate again" in sentence for sentence in said[1])
