"""Rows and machines whose cells are mixed among each other and with nonsense: predicted, or left out by a reason."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest

from sim.validation.published.corpus.held_out import predict_all
from sim.validation.published.corpus.parts import SHIPPED
from sim.validation.published.corpus.predict import prediction_row, prefill_rows, settings_of
from sim.validation.published.corpus.tables import COLUMNS, MACHINE_COLUMNS, read_corpus
from tests.support.corpus_rows import write_corpus

NONSENSE = (
    "", "?", "n/a", "not stated", "RTX 9999 Ti", "2 x RTX 3060 + 1 x P40", "M9 Ultra 256GB", "Threadripper 9970X", "0",
    "-", "1e9", "10-12", "99 %", "~ 3.5 GB/s", "0 bpw", "0.1 bpw", "1000 bpw", "0 of 0 experts on GPU",
    "200 of 128 GPU experts", "150 % of experts on GPU", "--n-cpu-moe 0", "-ncmoe 999999", "CPU only", "hit 200 %",
    "head 99 + tail 99 layers on GPU", "k=0", "0 experts", "gpu memory 0 GB/s", "(0 GB/s)", "0ch", "DDR5-0000",
    "PCIe 9.0 x16", "x0", "0 x RTX 4090", "999999999999999999999", "NaN", "—", "12 GB of something else",
)  # fmt: skip
RATES = ("", "~", "11-12", "12,345.6", "about 7", "0.001", "9999999")
SHARES = ("", "0", "1", "100 %", "55 %", ".5", "up to .9")
KEPT = ("row_id", "machine_id", "series_id", "source", "confidence")


def mixed(rng: random.Random, rows: list[dict[str, str]], columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows with some cells exchanged for those of other rows, some for nonsense that the column may hold."""
    found = [{name: row[name] for name in columns} for row in rows]
    for name in columns:
        others = [row[name] for row in rows]
        rate, share = name in ("decode_tok_s", "prefill_tok_s"), name in ("hit_rate", "miss_rate")
        words = RATES if rate else SHARES if share else NONSENSE[1:] if name == "model" else NONSENSE
        for row in found if name not in KEPT else ():
            draw = rng.random()
            row[name] = rng.choice(others) if draw < 0.12 else rng.choice(words) if draw < 0.22 else row[name]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_mixed_rows_are_predicted_or_left_out_by_a_reason(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    tables = []
    for name, columns in (("corpus.csv", COLUMNS), ("machines.csv", MACHINE_COLUMNS)):
        with (SHIPPED / name).open(newline="") as file:
            tables.append(mixed(rng, list(csv.DictReader(file)), columns))
    rows, machines = tables
    for row in rows:  # else most are left out for that
        row["batch"], row["confidence"] = "1", "high"
    corpus = read_corpus(write_corpus(tmp_path, rows, machines))
    settings, against = settings_of(corpus)
    assert len(settings) + len(against) == len(rows)
    assert len(settings) > 20
    assert all(reason for _, reason in against)
    predictions = predict_all(settings, settings)
    for prediction in predictions:
        assert prediction_row(prediction)
        for stage, value in prediction.predicted.items():
            low, high = prediction.interval[stage]
            assert 0 < low <= value <= high < np.inf
    assert all(np.isfinite(row["log_error"]) for row in prefill_rows(corpus))
