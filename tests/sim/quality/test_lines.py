"""Lines to finish: which ones, what is right, and what margins say, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sim.quality.evaluate import run_study
from sim.quality.generation import continuation, plain_continuations
from sim.quality.lines import Lines, line_items
from sim.quality.loop import Variant
from sim.quality.metrics import quality_row
from sim.quality.report import text
from sim.quality.settings import LinesConfig, QualityConfig, StudyConfig
from sim.quality.store import Store
from sim.quality.windows import Windows
from tests.sim.quality.small import BAND, loaded, study_of
from tests.support.replays import BARE
from tests.support.tiny_models import byte_tokenizer
from traces.errors import UserError

TEXT = "first\nab = cd\n\nx\nreturn 1\n    \nend"
"""Of tokens that are bytes: lines that end with their token are `ab = cd` (8), `x` (2, too short), `return 1` (9),
four blanks (nothing to write); the first has no beginning in the window, the last no end. With three tokens left of a
line the texts to write are `cd` and ` 1`, cut at 11 and 23."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def windows_of(*texts: str, domains: tuple[str, ...] | None = None) -> Windows:
    tokenizer = byte_tokenizer()
    ids = np.array([tokenizer(each)["input_ids"] for each in texts], np.int64)
    return Windows(ids, tuple(f"d{i}" for i in range(len(texts))), domains or ("text",) * len(texts))


def test_a_line_is_cut_before_its_last_tokens() -> None:
    tokenizer, windows = byte_tokenizer(), windows_of(TEXT)
    lines = line_items(windows, tokenizer, LinesConfig(items=9, left=3, prompt_tokens=4), 0)
    found = {tokenizer.decode(prompt.tolist()): rest for prompt, rest in zip(lines.prompts, lines.rests, strict=True)}
    assert found == {"b = ": "cd", "turn": " 1"} and lines.documents == ("d0", "d0")


@pytest.mark.parametrize(("limits", "rests"), [({"left": 7}, {"turn 1"}), ({"prompt_tokens": 12}, {" 1"})])
def test_what_does_not_fit_is_left_out(limits: dict[str, int], rests: set[str]) -> None:
    config = LinesConfig(**({"items": 9, "left": 3, "prompt_tokens": 4} | limits))
    assert set(line_items(windows_of(TEXT), byte_tokenizer(), config, 0).rests) == rests


def test_code_alone_is_used_and_windows_take_turns() -> None:
    other = TEXT.replace("cd", "ef").replace("n 1", "n 2")
    windows = windows_of(TEXT, TEXT, other, domains=("prose", "code", "code"))
    lines = line_items(windows, byte_tokenizer(), LinesConfig(items=2, left=3, prompt_tokens=4), 0)
    assert lines.documents == ("d1", "d2")
    assert len(line_items(windows, byte_tokenizer(), LinesConfig(items=9, left=3, prompt_tokens=4), 0)) == 4


def test_right_is_the_text_to_the_end_of_the_line_and_no_further() -> None:
    tokenizer = byte_tokenizer()
    lines = Lines(tokenizer, np.zeros((1, 1), np.int64), (" cd",), ("d",))

    def written(words: str) -> np.ndarray:
        return np.array(tokenizer(words)["input_ids"])

    base = written(" cd\nfoo")
    assert lines.judged(0, base, written(" cd\nbar")) == (1.0, 1.0)
    assert lines.judged(0, base, written(" cdefgh")) == (0.0, 0.0)  # does not end
    assert lines.judged(0, written(" ce"), written(" ce")) == (0.0, 1.0)  # wrong alike
    assert lines.judged(0, written(" cd"), written(" cd\n")) == (1.0, 0.0)  # one of them ends


def line_study(policy):
    """A study whose windows are lines of text instead of random tokens."""
    study = study_of(policy=policy, windows=4, tokens=24, contrasts=False, per_layer=False)
    texts = [f"x = y\nother{i} = it\nend".ljust(24) for i in range(4)]
    config = LinesConfig(items=3, left=4, prompt_tokens=4, new_tokens=8)
    study.lines = line_items(windows_of(*texts), byte_tokenizer(), config, 0)
    study.config = replace(study.config, lines=config)
    return study


def test_a_policy_that_replaces_nothing_finishes_lines_as_untouched() -> None:
    study = line_study(BARE)
    row = quality_row(study, run_study(study, Store(None)))
    assert row["lines.items"] == 3 and row["policy.lines_same"] == 1.0 and row["policy.lines_exact_change"] == 0.0
    assert "as untouched 100" in text(study, row)


def test_lines_are_finished_by_the_model_with_the_policy_in_it() -> None:
    study = line_study(BAND)
    results = run_study(study, Store(None))
    for item, prompt in enumerate(study.lines.prompts):
        base = plain_continuations(loaded("olmoe").model, prompt[None], 8)[0]
        mine, _ = continuation(study.loop, prompt, 8, Variant("policy"))
        assert results.lines[item]["policy"].tolist() == [*study.lines.judged(item, base, mine)]


def test_margins_judge_every_change_and_the_contrasts() -> None:
    study = study_of(windows=12, margin=1e-9)
    row = quality_row(study, run_study(study, Store(None)))
    assert row["random.kl_over_policy"] == pytest.approx(row["random.kl"] / row["policy.kl"] - 1)
    assert row["policy.perplexity_ratio.within"] in ("no", "undecided") and "policy.kl_over_policy" not in row
    wide = study_of(windows=12, margin=10.0, contrast_margin=50.0)
    again = quality_row(wide, run_study(wide, Store(None)))
    assert again["policy.perplexity_ratio.within"] == "yes" == again["random.kl_over_policy.within"]
    assert "this model cannot test whether experts of nearly the same score do the same" in text(wide, again)


def test_what_has_no_place_is_refused() -> None:
    with pytest.raises(UserError, match=r"lines.prompt_tokens=64 and lines.left=2: together at most tokens=32"):
        LinesConfig().check(32)
    with pytest.raises(UserError, match=r"lines.left=13: at most lines.new_tokens=12"):
        LinesConfig(left=13).check(256)
    with pytest.raises(UserError, match=r"lines.items=48: a free continuation has no drafts"):
        replace(StudyConfig.windows_only(QualityConfig(step_tokens=2)), lines=LinesConfig()).check()
