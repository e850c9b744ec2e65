"""Scores of all experts in a table: proved to be what the ids and weights were made of, or left out."""

import numpy as np
from numpy.typing import NDArray

from traces.format.score_function import (
    LOGITS,
    PRINTED_TOLERANCE,
    PROBABILITIES,
    SIGMOIDS,
    are_best,
    forms_of,
    name_score_function,
    to_logits,
)

ROUNDED = 5e-4
"""Scores of a table are often printed with three digits."""
READ_AS = {
    LOGITS: "as logits",
    PROBABILITIES: "as probabilities, whose logarithms are kept",
    SIGMOIDS: "as sigmoids, whose logits are kept",
}
Floats = NDArray[np.float32]


def router_logits(
    scores: Floats, ids: NDArray[np.int32], weights: Floats | None, notes: list[str]
) -> tuple[Floats | None, str | None]:
    """Logits [T, L, E] whose softmax are the gate scores, and the name of the function that makes weights of them.

    `ids`, `weights` [T, L, K]. None where neither the scores, nor as probabilities their logarithms, explain the
    weights (without weights: where they do not say which they are, or other experts have higher ones).
    """
    forms, chosen = forms_of(scores, ROUNDED), ids.astype(np.int64)
    if weights is None:
        if not are_best(chosen, scores):
            notes.append("Scores are left out: they are not highest for the chosen experts, and no weights prove them.")
            return None, None
        if len(forms) > 1:
            notes.append("Scores are left out: they may be logits or sigmoids, and no weights tell which.")
            return None, None
        notes.append(f"Scores are read {READ_AS[forms[0]]}; no weights prove it.")
        return to_logits(scores, forms[0]), None
    for form in reversed(forms):
        logits = to_logits(scores, form)
        found = name_score_function(chosen, weights, logits, PRINTED_TOLERANCE)
        if found is not None and (found.shows or are_best(chosen, logits)):
            notes.append(f"Scores are read {READ_AS[form]}: the weights are their {found.function}.")
            return logits, found.function
    notes.append("Scores are left out: no known function of them gives the weights.")
    return None, None
