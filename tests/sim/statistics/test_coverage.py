"""How often intervals of 95 % hold the truth, on requests drawn from a generator whose truth is known."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from sim.metrics.registry import quantity_of
from sim.statistics.pairs import contrast
from sim.statistics.run_sample import Run, intervals

SAMPLES, AT_LEAST = 1000, 0.92
SETUPS = {"24 requests at batch 1": (24, 1), "18 requests at batch 3": (6, 3)}
SPREAD, OWN = 0.4, 0.2
"""Of the logarithm of a request's time per token: between requests, and of each policy on the same request."""
TRUTH = float(np.exp((SPREAD**2 + OWN**2) / 2))
FASTER = 0.9
P90 = float(np.exp(1.2815515655446004 * np.hypot(SPREAD, OWN)))


def samples(blocks: int, members: int, conversations: int = 0, count: int = SAMPLES) -> Iterator[tuple[Run, Run]]:
    """Pairs of runs on the same requests: log-normal times per token, unequal lengths, hits of 30 % of the demand.

    With `conversations`, requests of one have nearly the same time.
    """
    rng = np.random.default_rng(12)
    requests = blocks * members
    group = np.repeat(np.arange(blocks), members)
    cluster = np.arange(requests) % conversations if conversations else np.arange(requests)
    for _ in range(count):
        common = rng.normal(0, SPREAD, cluster.max() + 1)[cluster]
        tokens = np.ceil(rng.gamma(3, 40, requests))
        hits, runs = rng.beta(3, 7, requests) * 8 * tokens, []
        for name, factor in (("slow", 1.0), ("fast", FASTER)):
            tpot = factor * np.exp(common + rng.normal(0, OWN, requests))
            rows = {"group": group, "phase": 1, "hits": hits, "demanded": 8 * tokens, "num_tokens": tokens}
            blocks_of = pd.DataFrame(rows | {"token_latency_ns": 1e9 * tpot * tokens})
            table = pd.DataFrame({"group": group, "tpot_s": tpot} | ({"cluster": cluster} if conversations else {}))
            runs.append(Run(name, blocks_of.groupby(["group", "phase"], as_index=False).sum(), table))
        yield runs[0], runs[1]


def share(held: list[bool]) -> float:
    return float(np.mean(held))


@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS)
def test_means_ratios_and_differences_cover_what_they_claim(setup):
    held: dict[str, list[bool]] = {}
    truths = {"tpot_s.mean": TRUTH, "itl_s.mean": TRUTH, "decode.hit_rate": 0.3}
    for slow, fast in samples(*SETUPS[setup]):
        for name, found in intervals(slow, list(truths)).items():
            held.setdefault(name, []).append(found.low <= truths[name] <= found.high)
        for name in ("tpot_s.mean", "itl_s.mean"):
            pair = contrast(slow, fast, quantity_of(name))
            gap = TRUTH * (1 - FASTER)
            held.setdefault(f"difference of {name}", []).append(pair.difference.low <= gap <= pair.difference.high)
            held.setdefault(f"ratio of {name}", []).append(pair.ratio.low <= 1 / FASTER <= pair.ratio.high)
    shares = {name: share(each) for name, each in held.items()}
    assert min(shares.values()) >= AT_LEAST and max(shares.values()) <= 0.985, shares


@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS)
def test_p90_of_few_requests_is_refused_and_of_enough_covers(setup):
    for slow, fast in samples(*SETUPS[setup], count=3):
        assert "has no interval: that takes 50" in intervals(slow, ["tpot_s.p90"])["tpot_s.p90"].why
        assert np.isnan(contrast(slow, fast, quantity_of("tpot_s.p90")).difference.interval).all()
    alone, gaps = [], []
    members = SETUPS[setup][1]
    for slow, fast in samples(54, members):
        found = intervals(slow, ["tpot_s.p90"])["tpot_s.p90"]
        alone.append(found.low <= P90 <= found.high)
        pair = contrast(slow, fast, quantity_of("tpot_s.p90")).difference
        gaps.append(pair.low <= P90 * (1 - FASTER) <= pair.high)
    assert share(alone) >= AT_LEAST and share(gaps) >= AT_LEAST, (share(alone), share(gaps))


@pytest.mark.slow
def test_requests_of_conversations_cover_because_conversations_are_drawn():
    drawn, alone = [], []
    for slow, _ in samples(24, 1, conversations=8):
        assert slow.num_blocks == 8
        found = intervals(slow, ["tpot_s.mean"])["tpot_s.mean"]
        drawn.append(found.low <= TRUTH <= found.high)
        blind = Run("blind", slow.blocks, slow.requests.drop(columns="cluster"))
        found = intervals(blind, ["tpot_s.mean"])["tpot_s.mean"]
        alone.append(found.low <= TRUTH <= found.high)
    assert share(drawn) >= AT_LEAST > share(alone), (share(drawn), share(alone))
