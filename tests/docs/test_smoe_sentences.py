"""Every sentence of the README on SMoE's lead holds on every machine that it speaks of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from scripts.studies.smoe import claims, replays
from scripts.studies.smoe.rivals import NEAR_BUT_BEHIND, near_the_best, rivals, screen

README = " ".join((Path(__file__).resolve().parents[2] / "README.md").read_text().split())
CLAIMS = (Path(__file__).resolve().parents[2] / "docs" / "results" / "smoe_claims.md").read_text()
MACHINES = [(machine.host_s, machine.cpu_ratio) for machine in replays.MACHINES]
HALF_A_POINT = 0.005


@dataclass(frozen=True)
class Sentence:
    """Words of the README, and the least and most TPOT against the best lossless policy that they state."""

    words: str
    batch: int
    low: float
    high: float
    of: Callable[[float, float], bool]
    """Whether it speaks of a machine: host time in seconds, CPU expert in copies."""


def measured(host_s: float, ratio: float) -> bool:
    return ratio >= replays.THREE_CORES


LEADS = (
    "at .73 and 1.08 copies SMoE leads at every host time from 0 to 3 ms per layer, by 12 to 25 % at batch 1 and "
    "24 to 32 % at batch 3."
)
TWO = (
    "With 1.08 copies and at most 1 ms of host time its lead at batch 1 is 22 to 25 %, the paper's 24 %; with .73 it "
    "is 14 to 18 %."
)
MOST = "35 % at batch 3; the most on any of these machines is 32 %."
FLIPS = (
    "where a CPU expert takes a third of a copy, SMoE is 3 to 22 % slower at batch 1, and leads by only 3 to 12 % at "
    "batch 3."
)
SENTENCES = [
    Sentence(LEADS, 1, -0.25, -0.12, measured),
    Sentence(LEADS, 3, -0.32, -0.24, measured),
    Sentence(TWO, 1, -0.25, -0.22, lambda host_s, ratio: ratio == replays.TWO_CORES and host_s <= 1e-3),
    Sentence(TWO, 1, -0.18, -0.14, lambda host_s, ratio: ratio == replays.THREE_CORES and host_s <= 1e-3),
    Sentence(MOST, 3, -0.32, 1.0, lambda host_s, ratio: True),
    Sentence(FLIPS, 1, 0.03, 0.22, lambda host_s, ratio: ratio == replays.THIRD),
    Sentence(FLIPS, 3, -0.12, -0.03, lambda host_s, ratio: ratio == replays.THIRD),
]


@cache
def bench() -> replays.Bench:
    return replays.Bench(*replays.split(None, 6, 6))


def check(host_s: float, ratio: float) -> None:
    """Every sentence that speaks of this machine."""
    found = {
        batch: claims.lead(bench(), claims.best_of(rivals()), batch, replays.Machine(host_s, ratio)) for batch in (1, 3)
    }
    spoken = [sentence for sentence in SENTENCES if sentence.of(host_s, ratio)]
    assert {sentence.batch for sentence in spoken} == {1, 3}
    for sentence in spoken:
        lead = found[sentence.batch]
        assert sentence.low - HALF_A_POINT <= lead <= sentence.high + HALF_A_POINT, (sentence.words, lead)


@pytest.mark.parametrize("words", dict.fromkeys(sentence.words for sentence in SENTENCES))
def test_the_readme_says_it(words):
    assert words in README


@pytest.mark.parametrize(
    ("words", "claim", "batch", "ours", "machines"),
    [
        ("the paper's 48 % (batch 3, S3): 26 % there, at most 30 %", "SMoE (paper), best, S3", 3, "-25.7%", "-30%"),
        ("leads by 8 % at batch 1", "SMoE (code 07), best, all", 1, "-7.7%", "-9%"),
        ("and 10 % at batch 3 since July 2026", "SMoE (code 07), best, all", 3, "-9.7%", "-12%"),
        ("and did not before", "SMoE (code), best, all", 1, "+7.9%", "-2%"),
    ],
)
def test_the_readme_says_what_the_table_of_claims_says(words, claim, batch, ours, machines):
    assert words in README
    (row,) = (line for line in CLAIMS.splitlines() if line.startswith(f"| {claim} | {batch} |"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[5] == ours and cells[7].startswith(f"{machines} to ")


@pytest.mark.slow
@pytest.mark.parametrize(("host_s", "ratio"), MACHINES)
def test_it_is_true_on_every_machine(host_s, ratio):
    check(host_s, ratio)


def test_the_machines_are_those_of_the_question():
    assert [host_s * 1e3 for host_s in replays.HOSTS_S] == pytest.approx([0, 0.1, 0.3, 1, 3])
    assert pytest.approx([1 / 3, 0.73, 1.08]) == replays.CPU_RATIOS and len(MACHINES) == 15


@pytest.mark.slow
def test_no_lossless_policy_near_the_best_is_left_out():
    found = screen(bench())
    behind = set(NEAR_BUT_BEHIND)
    assert set(near_the_best(found)) - behind == {one.system for one in rivals() if one.system}
    assert all(min(found[name]) > 1.02 for name in behind)
