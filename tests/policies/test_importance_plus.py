"""``importance_plus`` on states small enough to check by hand, and how far a replacement may go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.state import DECODE, PREFILL, RESIDENT
from policies.substitution.importance_plus import ImportancePlus
from tests.policies.test_rules_by_hand import routed_state
from tests.policies.test_substitution_by_hand import executed
from traces.errors import UserError

# experts 0, 1, 2 are routed: their scores sum to 0.58, so that loss 0.05 allows 0.029 and loss 0.1 allows 0.058
SCORES = [0.30, 0.15, 0.13, 0.12, 0.10, 0.09, 0.07, 0.04]


def test_the_lowest_missing_expert_goes_first_and_takes_the_best_resident_one() -> None:
    state = routed_state(SCORES, [0, 1, 2], [3, 4, 5])
    assert executed(ImportancePlus(loss=0.05), state) == [[0, 1, 3]]  # .13 - .12 is little, .15 - .10 is too much
    assert executed(ImportancePlus(loss=0.1), routed_state(SCORES, [0, 1, 2], [3, 4, 5])) == [[0, 4, 3]]


def test_the_best_experts_are_always_executed() -> None:
    assert executed(ImportancePlus(loss=1.0, keep=1), routed_state(SCORES, [0, 1, 2], [3, 4, 5])) == [[0, 4, 3]]
    assert executed(ImportancePlus(loss=1.0, keep=0), routed_state(SCORES, [0, 1, 2], [3, 4, 5])) == [[5, 4, 3]]
    assert executed(ImportancePlus(loss=1.0, keep=2), routed_state(SCORES, [0, 1, 2], [3, 4, 5])) == [[0, 1, 3]]


def test_resident_experts_stay_and_substitutes_may_run_out() -> None:
    assert executed(ImportancePlus(loss=1.0), routed_state(SCORES, [0, 1, 2], [2, 7])) == [[0, 7, 2]]
    assert executed(ImportancePlus(loss=1.0), routed_state(SCORES, [0, 1, 2], [7])) == [[0, 1, 7]]
    assert executed(ImportancePlus(loss=1.0), routed_state(SCORES, [0, 1, 2], [0])) == [[0, 1, 2]]


def test_prefill_is_left_alone_unless_asked() -> None:
    assert executed(ImportancePlus(), routed_state(SCORES, [0, 1, 2], [3], PREFILL)) == [[0, 1, 2]]
    asked = ImportancePlus(during_prefill=True)
    assert executed(asked, routed_state(SCORES, [0, 1, 2], [3], PREFILL)) == [[0, 1, 3]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.5), st.integers(0, 4))
def test_no_replacement_loses_more_than_its_share(seed: int, loss: float, keep: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.full(16, 0.7)).astype(np.float32)
    routed = np.argsort(-scores, kind="stable")[:4].tolist()
    resident = rng.permutation(16)[: rng.integers(0, 17)].tolist()
    state = routed_state(scores.tolist(), routed, resident, DECODE)
    (found,) = executed(ImportancePlus(loss=loss, keep=keep), state)
    assert len(set(found)) == 4 and found[:keep] == routed[:keep]
    for old, new in zip(routed, found, strict=True):
        if old != new:
            assert old not in resident and state.status[0, new] == RESIDENT and new not in routed
            assert float(scores[old]) - float(scores[new]) <= loss * float(scores[routed].sum()) + 1e-6


def test_knobs_have_ranges() -> None:
    with pytest.raises(UserError, match=r"policy\.substitution\.loss=2: must be between 0 and 1"):
        ImportancePlus(loss=2.0)
