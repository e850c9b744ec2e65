"""Importers on the real recordings of others, checked against what was published with them."""

import argparse
import csv
from collections import OrderedDict

import numpy as np
import pytest

from traces.format.trace import DECODE
from traces.format.validation import validate
from traces.importers import big_moe_on_edge, gpt_oss, mixtral_offloading


def test_gpt_oss(shared_traces):
    trace = gpt_oss.read(shared_traces / "gpt_oss_20b", argparse.Namespace())
    validate(trace)
    assert trace.topk_ids.shape == (126_339, 24, 4) and trace.num_requests == 423
    assert len(set(trace.request_labels)) == 11


def test_mixtral(shared_traces):
    trace = mixtral_offloading.read(shared_traces / "mixtral_offloading/active_experts.txt", argparse.Namespace())
    validate(trace)
    assert int((trace.phase == DECODE).sum()) == 773
    assert (np.sort(trace.topk_ids[:4].transpose(1, 0, 2).reshape(32, 8), axis=1) == np.arange(8)).all()


def qwen(shared_traces):
    source = shared_traces / "big_moe_on_edge/qwen.route.csv"
    return big_moe_on_edge.read(source, argparse.Namespace(model="qwen3_30b_a3b"))


def test_qwen_geometry(shared_traces):
    trace = qwen(shared_traces)
    validate(trace)
    assert trace.topk_ids.shape == (156, 48, 6) and trace.prompt_len.tolist() == [28]
    sizes, counts = np.unique(trace.geometry.expert_bytes, return_counts=True)
    assert sizes.tolist() == [2_654_208, 3_059_712] and counts.tolist() == [24, 24]
    assert trace.provenance["filled_prefill_entries"] == 27


def layer_steps(trace):
    """(phase, layer, experts in order of touch) of each layer step, the prompt being one step."""
    prompt = int(trace.prompt_len[0])
    for layer in range(trace.num_layers):
        yield 0, layer, trace.topk_ids[:prompt, layer].reshape(-1).tolist()
    for row in range(prompt, trace.num_tokens):
        for layer in range(trace.num_layers):
            yield 1, layer, trace.topk_ids[row, layer].tolist()


def global_lru_rates(trace, budget):
    """Hit rates in per cent, of all and of decode, of one LRU pool of bytes that spares the step that is running."""
    pool, used, hits, demands = OrderedDict(), 0, [0, 0], [0, 0]
    for phase, layer, experts in layer_steps(trace):
        step = {(layer, expert) for expert in experts}
        demands[phase] += len(step)
        hits[phase] += sum(key in pool for key in step)
        for expert in experts:
            used += 0 if (layer, expert) in pool else trace.geometry.expert_bytes[layer]
            pool[layer, expert] = None
            pool.move_to_end((layer, expert))
        for key in [key for key in pool if key not in step]:
            if used <= budget:
                break
            del pool[key]
            used -= trace.geometry.expert_bytes[key[0]]
    return 100 * sum(hits) / sum(demands), 100 * hits[1] / demands[1]


@pytest.mark.slow
def test_qwen_gives_the_published_lru_curve_at_every_budget(shared_traces):
    trace = qwen(shared_traces)
    lines = (shared_traces / "big_moe_on_edge/qwen-curve.csv").read_text().splitlines()
    published = [row for row in csv.reader(line for line in lines if not line.startswith("#")) if row[1] == "lru"]
    assert len(published) == 11
    for budget, _, overall, decode, _ in published[::2]:
        rates = global_lru_rates(trace, int(budget) << 20)
        assert rates == pytest.approx((float(overall), float(decode)), abs=0.001)
