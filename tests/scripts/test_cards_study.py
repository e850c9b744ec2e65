"""What is drawn from a card of half of a trace, beside the other half: the errors are held, and independence fails."""

import csv
from argparse import Namespace

import numpy as np
import pytest

from scripts.studies import cards
from sim.cards import fit
from sim.cards.fit import fit_generator, independent
from sim.cards.measure import counted_requests, measure
from sim.cards.routing import draw_requests, routing_of
from traces.embedded import embedded_trace_path
from traces.format.files import read_trace


def errors(trace, stride, layers):
    """Worst errors of the card and of independent tokens on the second half, and of the first half itself."""
    first, second = cards.halves(trace, stride)
    seen, unseen = ([ids[:, :layers] for ids in counted_requests(half)] for half in (first, second))
    experts, top_k = trace.num_experts, trace.top_k
    measured, truth = measure(seen, experts), measure(unseen, experts)
    lengths = np.array([len(ids) for ids in unseen])

    def drawn(generator):
        ids = draw_requests(routing_of(generator, layers, experts, 0), 0, lengths, top_k).astype(np.int32)
        return measure(np.split(ids, np.cumsum(lengths)[:-1]), experts)

    def off(found):
        union = found.union.mean(axis=0) / truth.union.mean(axis=0) - 1
        misses = found.hits.mean(axis=0) - truth.hits.mean(axis=0)
        return 100 * np.abs(misses[top_k:]).max(), 100 * np.abs(union).max(), found.next_top1 - truth.next_top1

    return off(drawn(fit_generator(measured, top_k))), off(drawn(independent(measured, top_k))), off(measured)


@pytest.mark.slow
def test_a_card_of_half_the_embedded_trace_draws_the_other_half(monkeypatch):
    monkeypatch.setattr(fit, "AGAIN", (0.6, 0.8))  # fewer tries, for time
    monkeypatch.setattr(fit, "KINDS", (16,))
    card, alone, half = errors(read_trace(embedded_trace_path("demo")), 1, 2)
    assert card[0] < half[0] + 3 and card[1] < half[1] + 4 and abs(card[2]) < 0.15
    assert alone[0] > 10 and alone[1] > 15, "tokens that are independent have another curve"
    assert alone[2] < -0.4, "and their layers say nothing of each other"


@pytest.mark.slow
def test_a_card_of_half_of_gpt_oss_draws_the_other_half(shared_traces):
    from traces.importers import gpt_oss

    card, alone, half = errors(gpt_oss.read(shared_traces / "gpt_oss_20b", Namespace()), 4, 6)
    assert card[0] < half[0] + 2 and card[1] < half[1] + 3 and abs(card[2]) < 0.1
    assert alone[0] > 20 and alone[1] > 25


def test_the_committed_table_says_what_the_page_says():
    rows = list(csv.DictReader(cards.OUT.with_suffix(".csv").read_text().splitlines()))
    found = [cards.Verdict(row["trace"], row["routing"], *(float(row[name]) for name in list(row)[2:])) for row in rows]
    assert cards.OUT.with_suffix(".md").read_text() == cards.page(found)
    assert {(row["trace"], row["routing"]) for row in rows} == {
        (trace, routing) for trace in cards.SIZES for routing in (cards.REAL, cards.CARD, cards.CURVE, cards.IID)
    }
    by = {(one.trace, one.routing): one for one in found}
    for trace in cards.SIZES:
        assert by[trace, cards.IID].lru_points > 3 * by[trace, cards.CARD].lru_points


def test_belady_hits_by_hand():
    """One expert a token, two slots: 0 1 2 0 1 keeps 0 and one other, so 0 hits and 1 may."""
    ids = np.array([0, 1, 2, 0, 1], np.int32).reshape(5, 1, 1)
    assert cards.belady_hits(ids, 3, 2) == 1
    assert cards.belady_hits(ids, 3, 3) == 2
    assert cards.belady_hits(np.array([0, 1, 0, 2, 0], np.int32).reshape(5, 1, 1), 3, 2) == 2


def test_kendall_by_hand():
    one, other = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 3.0, "c": 2.999}
    assert cards.kendall(one, other, 0.0) == pytest.approx(1 / 3)
    assert cards.kendall(one, other, 0.01) == 1


def test_halves_are_alike_in_labels():
    trace = read_trace(embedded_trace_path("demo"))
    first, second = cards.halves(trace, 1)
    assert sorted(first.request_labels) == sorted(second.request_labels)
    assert not set(first.request_numbers) & set(second.request_numbers)
