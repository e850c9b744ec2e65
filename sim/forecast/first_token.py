"""The time from a prompt to its first token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.forecast.shipped import PREFILL, shipped_table
from sim.statistics.prediction_interval import reach
from sim.validation.published.corpus.placement import LINK_CACHE
from sim.validation.published.corpus.prefill import expressible, factor_of, prompt_s
from sim.validation.published.corpus.rule import Setting
from sim.validation.published.corpus.tables import cell_number, read_csv


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Seconds from a prompt to its first token; ``low`` and ``high`` hold 90 %."""

    prompt: int
    seconds: float
    low: float
    high: float
    families: int
    """Of machines whose published prompts say how far it may be off."""


def first_token(setting: Setting, prompt: int, token_s: float) -> FirstToken | None:
    """The time to the first token of a plan; None where no published prompt of its kind can be expressed."""
    rates = setting.rates
    reads = setting.placement.miss > 0 and setting.placement.kind != LINK_CACHE
    if reads or not expressible(setting.runtime, setting.placement.kind) or rates.unified or rates.gpu is None:
        return None
    columns = ("row", "family", "measured_over_terms", "log_error")
    rows = [
        (
            row["family"],
            cell_number(PREFILL, row["row"], "measured_over_terms", row["measured_over_terms"], 1e-9, 1e9),
            cell_number(PREFILL, row["row"], "log_error", row["log_error"], -99, 99),
        )
        for row in read_csv(shipped_table(PREFILL), columns)
    ]
    families = [family for family, _, _ in rows]
    wide = reach([error for _, _, error in rows], families)
    if wide is None or not rates.gpu.fp16_tflops:
        return None
    factor, times = factor_of([(ratio, 1.0, family) for family, ratio, _ in rows]), float(np.exp(wide))
    expected = factor * prompt_s(setting, prompt) + token_s
    return FirstToken(prompt, expected, expected / times, expected * times, len(set(families)))
