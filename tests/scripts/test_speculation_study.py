"""The study of published pairs with drafts: its page says what it counted; signs and orders hold when run again."""

import re

import pytest

from scripts.studies.speculation import PAIRS, RESULTS, ROUTINGS, Found, Pair, agreement, as_markdown, sign_of, simulate


def found(speedup):
    return {name: Found(speedup, 1.5, 6.0, 0.5) for name in ROUTINGS}


def test_signs_and_orders_are_counted():
    """Two of three signs; of the three couples of the series 1.5 > 0.9 > 0.8 two, since 0.7 and 0.75 are swapped."""
    pairs = [Pair(str(value), value, "", "", "s") for value in (1.5, 0.9, 0.8)]
    rows = [(pair, found(speedup)) for pair, speedup in zip(pairs, (1.2, 0.7, 0.75), strict=True)]
    rows.append((Pair("alone", 0.9, "", ""), found(1.1)))
    assert agreement(rows, "other") == ["sign: 3 of 4 pairs as published", "order of s: 2 of 3 couples as published"]
    assert sign_of(*rows[0]) == "as published" and sign_of(*rows[-1]) == "NOT as published"
    text = as_markdown(rows)
    assert "| alone | 0.900 | 1.100 | 1.100 | 1.50 | 6.0 | 0.50 | NOT as published |" in text
    assert text.count("sign: 3 of 4 pairs as published") == len(ROUTINGS)


def test_the_page_has_every_pair_and_counts_its_own_signs():
    text = (RESULTS / "speculation.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    assert [row[0] for row in rows[1:]] == [pair.name for pair in PAIRS]
    for place, name in enumerate(ROUTINGS):
        signs = sum((float(row[1]) > 1) == (float(row[2 + place]) > 1) for row in rows[1:])
        assert int(re.search(rf"`rejected={name}`: sign: (\d+) of", text)[1]) == signs


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if pair.series == "GLM-5.2 from disk"], ids=lambda one: one.name
)
def test_drafts_lose_where_experts_come_from_a_disk(pair):
    assert simulate(pair, "other").speedup < 1


@pytest.mark.slow
def test_signs_of_whole_layers_on_the_cpu_are_those_published():
    """Resident drafts gain, an MTP layer on the CPU loses however many layers are beside it."""
    rows = [(pair, {"other": simulate(pair, "other")}) for pair in PAIRS if pair.series == "DeepSeek-V4-Flash by GPUs"]
    assert agreement(rows, "other")[0] == "sign: 6 of 6 pairs as published"
    said = re.search(r"(\d+) of (\d+) couples", agreement(rows, "other")[1])
    assert int(said[1]) >= int(said[2]) - 2
