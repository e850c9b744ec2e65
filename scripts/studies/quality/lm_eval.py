"""Prints scores of the lm-evaluation-harness under policies: python -m scripts.studies.quality.lm_eval

Writes a local multiple-choice task from held-out text (which passage follows?) and lets the harness score the untouched
demo model and the same model under two policies. Needs the extra: pip install -e ".[lm-eval]". Quality MEASURED.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from scripts.command_line import parser_of, run
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.quality.lm_eval import evaluate_offline, tapped_lm
from sim.quality.settings import QualityConfig, StudyConfig
from sim.quality.study import DEMO_SIZES, Study, make_study
from traces.demo.cache import demo_model
from traces.demo.recipe import named_recipe
from traces.recording.loading import LoadedModel, load_model

CHARS, CHOICES = 240, 4
TASK = """task: held_out_passages
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
  - metric: acc_norm
"""


def write_task(folder: Path, passages: list[str], items: int, seed: int = 0) -> str:
    """A task's yaml and its data -> the name of the task. A passage's second half is the right choice for its first."""
    rng, rows = np.random.default_rng(seed), []
    for item in range(items):
        others = rng.choice([i for i in range(len(passages)) if i != item], CHOICES - 1, replace=False).tolist()
        order = rng.permutation(CHOICES).tolist()
        endings = [passages[i][CHARS // 2 : CHARS] for i in (item, *others)]
        row = {"query": passages[item][: CHARS // 2], "choices": [endings[i] for i in order], "gold": order.index(0)}
        rows.append(json.dumps(row))
    data = folder / "passages.jsonl"
    data.write_text("\n".join(rows) + "\n")
    (folder / "held_out_passages.yaml").write_text(TASK.format(file=data))
    return "held_out_passages"


def study_of(loaded: LoadedModel, policy: str) -> Study:
    """A policy at a quarter of the experts."""
    setup = DeviceSetup(load_policy(policy), Machine(load_hardware("s1_rtx3080ti")), CacheConfig(reset="request"))
    config = StudyConfig.windows_only(QualityConfig(windows=2, fit_windows=8))
    return make_study(loaded, setup, config, default_sizes=DEMO_SIZES)


def main(argv: list[str]) -> None:
    """Print the accuracy of the untouched model and of every policy."""
    parser = parser_of(__doc__)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--policies", nargs="+", default=["lru", "cache_prior"])
    given = parser.parse_args(argv)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"
    torch.set_num_threads(1)
    from lm_eval.models.huggingface import HFLM

    from traces.corpus import load_corpus

    loaded = load_model(str(demo_model(named_recipe("demo"))), "float32")
    passages = [document.text[:CHARS] for document in load_corpus().held_out if len(document.text) >= CHARS]
    models = {"untouched": HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal", batch_size=1)}
    models |= {policy: tapped_lm(loaded, study_of(loaded, policy)) for policy in given.policies}
    with tempfile.TemporaryDirectory() as folder:
        task = write_task(Path(folder), passages, given.items)
        print(f"{'demo model':<16}{'accuracy':>10}{'by length':>11}   ({given.items} items, MEASURED)")
        for name, model in models.items():
            scores = evaluate_offline(model, Path(folder), [task])[task]
            print(f"{name:<16}{scores['acc,none']:>10.3f}{scores['acc_norm,none']:>11.3f}", flush=True)


if __name__ == "__main__":
    run(main)
