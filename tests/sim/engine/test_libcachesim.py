"""Hits of generic rules against libCacheSim, an independent simulator, on real routing, one access at a time.

``cache.semantics=sequential`` exists for this comparison only. libCacheSim's LFU counts uses since admission and breaks
ties by age in the class of equal counts, which is recency; its Belady admits every miss.
"""

from dataclasses import replace

import numpy as np
import pytest

from policies.eviction.belady_admit import BeladyAdmit
from policies.eviction.fifo import Fifo
from policies.eviction.lfu import Lfu
from policies.eviction.lru import Lru
from sim.engine.decision.counters import HIT
from tests.support.importing import imported
from tests.support.replays import BARE, replay_of

libcachesim = pytest.importorskip("libcachesim")

RULES = {"LRU": Lru(), "FIFO": Fifo(), "LFU": Lfu(), "Belady": BeladyAdmit()}
ORACLE_GENERAL = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])  # 24 bytes, packed


@pytest.fixture(scope="module")
def gpt_oss(shared_traces):
    return imported("gpt_oss", shared_traces / "gpt_oss_20b")


def one_layer(trace, layer):
    """The accesses of one layer as a trace of its own."""
    geometry = replace(trace.geometry, num_layers=1, expert_bytes=(1000,), attention_bytes=None, shared_bytes=None)
    ids = np.ascontiguousarray(trace.topk_ids[:, layer : layer + 1])
    return replace(trace, geometry=geometry, topk_ids=ids, topk_weights=None)


def our_hits(trace, rule, slots):
    replay = replay_of(trace, replace(BARE, eviction=rule), slots_per_layer=slots, semantics="sequential")
    return sum(int(result.counts[:, HIT].sum()) for result in replay.blocks())


def write_accesses(path, accesses):
    """The accesses [n] in libCacheSim's binary format, each with the index of the next one to the same expert."""
    records = np.zeros(accesses.size, ORACLE_GENERAL)
    records["id"], records["size"], records["next"] = accesses + 1, 1, -1
    for expert in np.unique(accesses):
        places = np.flatnonzero(accesses == expert)
        records["next"][places[:-1]] = places[1:]
    records.tofile(path)


def their_hits(path, count, name, slots):
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    miss_ratio, _ = getattr(libcachesim, name)(slots, hashpower=10).process_trace(reader)
    return round((1.0 - miss_ratio) * count)


def check_sum(trace, slots, path):
    """Every rule, all layers in one replay against the sum of libCacheSim's caches, one for each layer."""
    sized = replace(trace, geometry=replace(trace.geometry, expert_bytes=(1000,) * trace.num_layers))
    expected = dict.fromkeys(RULES, 0)
    for layer in range(trace.num_layers):
        accesses = np.ascontiguousarray(trace.topk_ids[:, layer]).ravel().astype(np.int64)
        write_accesses(path, accesses)
        for name in RULES:
            expected[name] += their_hits(path, accesses.size, name, slots)
    assert {name: our_hits(sized, rule, slots) for name, rule in RULES.items()} == expected


@pytest.mark.parametrize("layer", [0, 8, 16, 23])
def test_four_rules_agree_exactly_in_single_layers(gpt_oss, layer, tmp_path):
    """gpt-oss-20b, the first ten requests: 4365 tokens, 17460 accesses a layer."""
    single = one_layer(gpt_oss.select_requests(10), layer)
    accesses = single.topk_ids.ravel().astype(np.int64)
    write_accesses(tmp_path / "accesses.bin", accesses)
    for slots in (4, 8, 16):
        for name, rule in RULES.items():
            expected = their_hits(tmp_path / "accesses.bin", accesses.size, name, slots)
            assert our_hits(single, rule, slots) == expected, (slots, name)


@pytest.mark.parametrize("slots", [1, 2, 6, 12, 24])
def test_four_rules_agree_exactly_summed_over_all_layers(gpt_oss, slots, tmp_path):
    check_sum(gpt_oss.select_requests(10), slots, tmp_path / "accesses.bin")


@pytest.mark.slow
@pytest.mark.parametrize("slots", [4, 8, 16])
def test_four_rules_agree_exactly_on_the_whole_trace(gpt_oss, slots, tmp_path):
    """All 423 requests: 126339 tokens, 12.1 million accesses."""
    check_sum(gpt_oss, slots, tmp_path / "accesses.bin")
