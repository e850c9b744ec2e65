"""The lm-evaluation-harness, offline, over a tiny model with a policy inside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.quality.lm_eval import evaluate_offline, tapped_lm
from sim.quality.parallel import plain_logits
from tests.sim.quality.small import BAND, loaded, study_of
from tests.support.replays import BARE
from traces.errors import UserError

TASK = """task: letters
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
"""


def test_the_harness_scores_the_tapped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        f'{{"query": "some {c} text", "choices": ["abc", "x{c}z"], "gold": {i % 2}}}' for i, c in enumerate("defghi")
    ]
    (tmp_path / "letters.jsonl").write_text("\n".join(rows))
    (tmp_path / "letters.yaml").write_text(TASK.format(file=tmp_path / "letters.jsonl"))
    one = loaded("olmoe")
    plain = HFLM(pretrained=one.model, tokenizer=one.tokenizer, backend="causal", batch_size=1)
    expected = evaluate_offline(plain, tmp_path, ["letters"])["letters"]["acc,none"]
    harmless = tapped_lm(one, study_of(policy=BARE))
    assert evaluate_offline(harmless, tmp_path, ["letters"])["letters"]["acc,none"] == expected
    tapped, tokens = tapped_lm(one, study_of()), np.arange(1, 25)[None]
    changed = tapped._model_call(torch.from_numpy(tokens))
    assert changed.shape == (1, 24, 300) and not torch.allclose(changed, plain_logits(one.model, tokens))
    context = torch.from_numpy(tokens[:, :6])
    assert tapped._model_generate(context, max_length=10, stop=None).shape == (1, 10)


def test_a_policy_that_needs_decoding_is_refused() -> None:
    pytest.importorskip("lm_eval")
    from policies.prediction.lookahead import Lookahead
    from policies.prefetch.top_score import TopScore

    prefetching = replace(BAND, prediction=Lookahead(), prefetch=TopScore())
    with pytest.raises(UserError, match="mode=parallel refuses"):
        tapped_lm(loaded("olmoe"), study_of(policy=prefetching))


def test_without_the_extra_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(UserError, match="pip install"):
        tapped_lm(loaded("olmoe"), study_of())
