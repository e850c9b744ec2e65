"""Every MoE type of the installed transformers is recorded right or refused with a sentence."""

import pytest

from scripts.studies.families.table import FAULTS, NOT_BUILT, REFUSED, RIGHT, try_type
from scripts.studies.families.tiny import moe_types

HARD = {
    "gemma4_text": "softmax_topk_scaled",  # returns probabilities, and has a scale for each expert
    "phimoe": "sparsemixer",
    "dbrx": "softmax_topk",  # chooses outside its router's module
    "llama4_text": "sigmoid",  # scales what enters its experts, and runs them all
    "longcat_flash": "softmax_shared",  # with experts that compute nothing
}
FEWEST_RIGHT = 60


@pytest.mark.parametrize("model_type", HARD)
def test_the_hard_ones_are_recorded_right(model_type: str) -> None:
    row = try_type(model_type)
    assert (row.verdict, row.score_function, row.experts) == (RIGHT, HARD[model_type], 8)
    assert row.rows_wrong.startswith("0/")


def test_an_encoder_decoder_is_refused() -> None:
    row = try_type("switch_transformers")
    assert row.verdict == REFUSED and "is an encoder-decoder model and cannot be hooked" in row.remarks


@pytest.mark.slow
def test_no_type_is_silently_wrong_or_ends_in_a_traceback() -> None:
    rows = [try_type(model_type) for model_type in moe_types()]
    assert [row for row in rows if row.verdict in FAULTS] == []
    assert all(row.remarks for row in rows if row.verdict in (REFUSED, NOT_BUILT))
    assert sum(row.verdict == RIGHT for row in rows) >= FEWEST_RIGHT
