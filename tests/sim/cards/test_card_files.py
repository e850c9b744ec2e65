"""Cards as files: those shipped, what is refused and how, and the command."""

import copy
import math
import shutil

import numpy as np
import pytest
import yaml

from sim.__main__ import main
from sim.cards.card import CARD_FOLDER, card_from, card_names, card_text, load_card, read_card
from sim.plain_yaml import read_mapping
from traces.errors import UserError


@pytest.mark.parametrize("name", card_names())
def test_every_shipped_card_is_read_and_written_the_same(name, tmp_path):
    card = load_card(name)
    (tmp_path / "again.yaml").write_text(card_text(card))
    assert read_card(tmp_path / "again.yaml") == card
    assert (CARD_FOLDER / f"{name}.yaml").read_text() == card_text(card)
    assert (card.label == "PUBLISHED") == name.endswith("_published") == (card.published is not None)
    assert len(card_text(card)) < 65536


def demo():
    return read_mapping(CARD_FOLDER / "demo.yaml", "card")


WRONG = {
    "schema": (2, "schema=2: must be 1"),
    "label": ("GUESSED", "label=GUESSED: must be MEASURED or PUBLISHED"),
    "model": (" ", "model=' ': must be a text that is not empty"),
    "geometry.top_k": (65, "geometry.top_k=65: must be at most num_experts=64"),
    "geometry.num_layers": (0, "geometry.num_layers=0: must be between 1 and 4096"),
    "geometry.num_experts": (10**30, "geometry.num_experts=10+: must be a whole number, below"),
    "sample.rows": (True, "sample.rows=True: must be a whole number"),
    "lengths.decode": ([1, 2], r"lengths.decode has 2 entries: must be a list of 7 whole numbers"),
    "popularity.use.0.3": (math.nan, r"popularity.use\[0\]\[3\]=nan: must be one of a list of 64 numbers from 0 to 1"),
    "popularity.use.1": ([0.9] * 64, r"popularity.use\[1\] over all experts adds up to 57.6: must be 6"),
    "reuse.overlap.2.0": (1.5, r"reuse.overlap\[2\]\[0\]=1.5"),
    "reuse.lags": ([3, 2, 1], r"reuse.lags\[1\]=2: must be above the 3 before it"),
    "reuse.lru_hit_rate.5": ("x", r"reuse.lru_hit_rate\[5\]=x"),
    "union.experts": (3, "union.experts=3: must be a list"),
    "recurrence.mean": (math.inf, "recurrence.mean=inf: must be between 0 and 1"),
    "coupling.next_top1_share": (-0.1, "coupling.next_top1_share=-0.1: must be between 0 and 1"),
    "gate.slope": (None, "gate.slope is missing"),
    "generator.bias": ([], "generator.bias has 0 rows: must be a list of 1 or 6 lists"),
    "generator.bias.0.0": (-1, r"generator.bias\[0\]\[1\]=.*: must be at most the -1 before it"),
    "generator.token.0": (0.0, "generator: token [+] shift [+] slow of layer 0 adds up to"),
    "generator.times": ([1, 2], r"generator.slow\[0\] has 4 entries: must be a list of 2 numbers"),
    "generator.again": (2, "generator.again=2: must be between 0 and 1"),
    "generator.kinds": (0, "generator.kinds=0: must be between 1 and 65536"),
    "generator.score_scale": (None, "generator.score_scale: must be stated with the section gate"),
    "generator.spread": (1, "generator.spread is not a field of Generator"),
    "popularty": ({}, "popularty is not a field of a card: did you mean popularity?"),
    "drift": ([1], r"drift=\[1\]: must be a group of fields"),
}


@pytest.mark.parametrize("place", WRONG)
def test_a_wrong_value_is_one_sentence_that_names_it(place):
    content, (value, sentence) = copy.deepcopy(demo()), WRONG[place]
    inside, *way = content, *place.split(".")
    for step in way[:-1]:
        inside = inside[int(step) if isinstance(inside, list) else step]
    inside[int(way[-1]) if isinstance(inside, list) else way[-1]] = value
    with pytest.raises(UserError, match=sentence) as raised:
        card_from(content)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &a [1, *a]", "more than 100000 values"),
        ("[1, 2]", "must hold a list of `field: value` lines"),
        ("schema: 1\nschema: 1", "duplicate key schema"),
        ("schema: !!python/object:os.system {}", "cannot be read"),
        ("", "must hold a list"),
        ("schema: 1", "is missing"),
    ],
)
def test_a_file_that_is_no_card(text, sentence, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_card(tmp_path / "bad.yaml")


def test_a_name_that_is_no_card():
    with pytest.raises(UserError, match=r"card=moon: must be one of demo, .*, or the path of a \*.yaml file"):
        load_card("moon")


CURVE = """model,num_layers,num_experts,top_k,expert_bytes,resident_fraction,decode_hit_rate,kind,source
small,2,16,2,,0.25,0.4,LRU,by hand
small,2,16,2,,0.5,{rate},LRU,by hand
small,2,16,{ranks},,1.0,1.0,LRU,by hand
"""


def test_a_published_curve_becomes_a_card_that_has_it(tmp_path, capsys):
    (tmp_path / "curve.csv").write_text(CURVE.format(rate=0.7, ranks=2))
    assert main(["card", str(tmp_path / "curve.csv"), str(tmp_path / "c.yaml"), "--model", "small"]) == 0
    assert "PUBLISHED card of small, 2 MoE layers, top 2 of 16 experts" in capsys.readouterr().out
    published = read_card(tmp_path / "c.yaml").published
    assert published.warm and published.capacity == [0.25, 0.5, 1.0]
    assert np.abs(np.subtract(published.drawn_hit_rate, published.hit_rate)).max() < 0.04


@pytest.mark.parametrize(
    ("words", "rate", "ranks", "sentence"),
    [
        ((), 0.7, 2, "is a table of curves: say --model NAME"),
        (("--model", "large"), 0.7, 2, "--model=large: must be one of small"),
        (("--model", "small"), 1.7, 2, r"line 3: decode_hit_rate=1.7: must be a share from 0 to 1"),
        (("--model", "small"), "nan", 2, r"line 3: decode_hit_rate=nan"),
        (("--model", "small"), 0.7, 3, r"line 4: top_k=3 of small: must be 2 as before"),
        (("--model", "small"), 0.3, 2, r"published.hit_rate\[1\]=0.3: must be at least the 0.4 before it"),
    ],
)
def test_a_curve_that_cannot_be(words, rate, ranks, sentence, tmp_path, capsys):
    (tmp_path / "curve.csv").write_text(CURVE.format(rate=rate, ranks=ranks))
    assert main(["card", str(tmp_path / "curve.csv"), str(tmp_path / "c.yaml"), *words]) == 2
    assert sentence.replace("\\", "") in capsys.readouterr().err
    assert not (tmp_path / "c.yaml").exists()


def test_the_shipped_cards_hold_numbers_only():
    for name in card_names():
        content = yaml.safe_load((CARD_FOLDER / f"{name}.yaml").read_text())
        texts = [value for value in content.values() if isinstance(value, str)]
        assert len(texts) == 3, "model, label and source"


def test_a_card_is_not_made_of_a_synthetic_trace(tmp_path, capsys):
    shutil.copy(CARD_FOLDER / "demo.yaml", tmp_path / "c.yaml")
    from sim.cards.synthesis import Wish, synthetic_trace
    from traces.format.files import write_trace

    write_trace(tmp_path / "t.safetensors", synthetic_trace(Wish("demo", requests=2, tokens=8, prompt_len=0)))
    assert main(["card", str(tmp_path / "t.safetensors"), str(tmp_path / "c.yaml")]) == 2
    assert "is SYNTHETIC: a card describes a recorded trace" in capsys.readouterr().err
    assert (tmp_path / "c.yaml").read_bytes() == (CARD_FOLDER / "demo.yaml").read_bytes()


@pytest.mark.slow
def test_the_card_of_the_embedded_trace_is_made_of_it_by_the_command(tmp_path):
    assert main(["card", "demo", str(tmp_path / "demo.yaml")]) == 0
    assert (tmp_path / "demo.yaml").read_text() == (CARD_FOLDER / "demo.yaml").read_text()
