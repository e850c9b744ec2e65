"""Replays of real traces against numbers that others published or measured."""

import csv

import pytest

from tests.sim.replays import replay_of, run
from traces.importers import load_importer

MIB = 2**20


def imported(name, source):
    import argparse

    importer = load_importer(name)
    parser = argparse.ArgumentParser()
    importer.add_options(parser)
    return importer.read(source, parser.parse_args([]))


@pytest.fixture(scope="module")
def phone(shared_traces):
    folder = shared_traces / "big_moe_on_edge"
    with (folder / "qwen-curve.csv").open() as file:
        return imported("big_moe_on_edge", folder / "qwen.route.csv"), list(csv.DictReader(file))


@pytest.mark.parametrize(("published", "policy"), [("lru", "lru"), ("belady", "belady_admit")])
def test_the_phone_trace_gives_the_published_curve_at_every_budget(phone, published, policy):
    """Qwen3-30B-A3B, one global byte pool, atomic steps, the prompt as one step: hit rates to 0.001 point, MiB read."""
    trace, curve = phone
    rows = [row for row in curve if row["policy"] == published]
    assert len(rows) == 11
    for row in rows:
        budget = int(row["budget_mib"]) * MIB
        metrics = run(replay_of(trace, policy, bytes=budget, scope="global", overflow="hold"))
        assert 100 * metrics["hit_rate"] == pytest.approx(float(row["hit_pct_cum"]), abs=0.001), row
        assert 100 * metrics["decode.hit_rate"] == pytest.approx(float(row["hit_pct_decode"]), abs=0.001), row
        read_mib = metrics["bytes_per_token"] * trace.num_tokens / MIB
        assert read_mib == pytest.approx(float(row["read_mib"]), abs=0.06), row


def test_step_lru_of_the_engine_equals_the_one_pass_miss_curve(shared_traces):
    """gpt-oss-20b, first 20 requests: two independent implementations, every capacity from top_k up."""
    from traces.miss_curve import lru_miss_curve

    trace = imported("gpt_oss", shared_traces / "gpt_oss_20b").select_requests(20)
    from dataclasses import replace

    sized = replace(trace, geometry=replace(trace.geometry, expert_bytes=(1000,) * trace.num_layers))
    curve = lru_miss_curve(sized)
    for slots in (4, 6, 8, 16, 24, 31):
        metrics = run(replay_of(sized, "lru", slots_per_layer=slots, overflow="hold"))
        assert metrics["hit_rate"] == pytest.approx(curve.hit_rate(slots), abs=1e-12)


def test_mixtral_hit_rates_at_capacity_top_k_are_alike_for_every_rule(shared_traces):
    """2 of 8 slots with top 2: whatever the rule, only an immediate repeat hits (.327 on this trace)."""
    trace = imported("mixtral_offloading", shared_traces / "mixtral_offloading" / "active_experts.txt")
    from dataclasses import replace

    sized = replace(trace, geometry=replace(trace.geometry, expert_bytes=(1000,) * trace.num_layers))
    rates = {p: run(replay_of(sized, p, slots_per_layer=2))["decode.hit_rate"] for p in ("lru", "belady_admit")}
    assert rates["lru"] == rates["belady_admit"] == pytest.approx(0.327, abs=0.001)
