"""Checks recordings of tiny models of every MoE type against the truth: python -m scripts.studies.families.table

Every MoE type of the installed transformers, with random weights. Words: [TYPE ...] [--out FILE.csv]

Truth: one expert's weights are changed, and the tokens whose output changes used it. Scores: softmax or another named
function of the recorded logits gives the recorded weights. Every type ends as one of: recorded right, refused with a
sentence, not built (its tiny configuration is not known here) - or as a fault: silently wrong, a traceback, a recording
that is lost. The exit status is 1 where there is a fault. Some four minutes on one core for all types.
"""

from __future__ import annotations

import tempfile
import traceback
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scripts.command_line import parser_of, run
from scripts.studies.families.tiny import moe_types, save_tiny, tiny_model
from scripts.studies.families.truth import used_experts
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.trace import SCORE_TABLES, Trace
from traces.recording.loading import LoadedModel, load_model
from traces.recording.moe_layers import find_moe_layers
from traces.recording.prompts import Prompt
from traces.recording.recorder import RecordOptions, record

PROMPTS = (Prompt("def add(a, b): return a + b  # sum"), Prompt("The quick brown fox jumps over it."))
RIGHT, REFUSED, NOT_BUILT = "recorded right", "refused", "not built"
WRONG, CRASHED = "SILENTLY WRONG", "TRACEBACK"
FAULTS = (WRONG, CRASHED)


@dataclass(frozen=True, slots=True)
class Row:
    """One type: what became of it, its sizes, how its weights come from its logits, its tables, and remarks."""

    model_type: str
    verdict: str
    layers: int | None = None
    experts: int | None = None
    top_k: int | None = None
    score_function: str | None = None
    tables: str = ""
    rows_wrong: str = ""
    remarks: str = ""


def try_type(model_type: str) -> Row:
    """Build, save, load, record and check one type."""
    try:
        model = tiny_model(model_type)
        folder = tempfile.TemporaryDirectory()
        save_tiny(model, Path(folder.name))
    except Exception as error:
        return Row(model_type, NOT_BUILT, remarks=_first_line(error))
    with folder:
        try:
            loaded = load_model(folder.name, "float32")
            options = RecordOptions(
                max_new_tokens=5, prompt_tokens=24, ignore_eos=True, half_precision=False, lookahead_extra=None
            )
            trace = record(loaded, PROMPTS, options, progress=False)
            file = Path(folder.name) / "trace.safetensors"
            write_trace(file, trace)
            return _compared(model_type, read_trace(file), loaded)
        except UserError as error:
            return Row(model_type, REFUSED, remarks=str(error).replace(folder.name, "FOLDER"))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            remarks = f"{type(error).__name__}: {_first_line(error)} ({Path(place.filename).name}:{place.lineno})"
            return Row(model_type, CRASHED, remarks=remarks)


def _compared(model_type: str, trace: Trace, loaded: LoadedModel) -> Row:
    """The row of a recorded trace: the prompt of its first request against the truth, and its absent tables."""
    assert trace.token_ids is not None
    count, experts = int(trace.prompt_len[0]), trace.num_experts
    names = [layer.name for layer in find_moe_layers(loaded.model)]
    truth = used_experts(loaded.model, names, trace.token_ids[:count].tolist(), experts)
    tables = [name for name in SCORE_TABLES if getattr(trace, name) is not None]
    remarks = [f"{k} {v}" for k, v in trace.provenance.items() if str(v).startswith("absent")]
    wrong = "not checked: weights are not by expert"
    verdict = RIGHT
    if truth is not None:
        faulty = int((_recorded(trace, count) != truth).any(-1).sum())
        wrong = f"{faulty}/{count * trace.num_layers}"
        verdict = WRONG if faulty else RIGHT
    if fault := _scores_fault(trace):
        verdict = WRONG
        remarks.append(fault)
    return Row(
        model_type, verdict, trace.num_layers, experts, trace.top_k, trace.score_function, " ".join(tables), wrong,
        "; ".join(remarks),
    )  # fmt: skip


def _recorded(trace: Trace, count: int) -> Any:
    """Of the first `count` rows, which experts the trace says are used, [T, L, E]."""
    assert trace.topk_weights is not None
    ids = np.asarray(trace.topk_ids[:count]).astype(np.int64)
    there = np.asarray(trace.topk_weights[:count]) != 0
    used = np.zeros((*ids.shape[:2], trace.num_experts), bool)
    for row, layer, rank in zip(*np.nonzero(there), strict=True):
        used[row, layer, ids[row, layer, rank]] = True
    return used


def _scores_fault(trace: Trace) -> str | None:
    """Why the recorded scores cannot be logits, computed here anew; None if nothing speaks against it."""
    if trace.router_logits is None:
        return None
    values = np.asarray(trace.router_logits.values, np.float64)
    if (values >= 0).all() and np.allclose(values.sum(-1), 1, atol=1e-4):
        return "router_logits are probabilities: every row sums to 1"
    if trace.score_function is None:
        return "router_logits are recorded, and nothing says how weights come of them"
    return None


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{type(error).__name__}: {text}"[:240]


def main(argv: list[str]) -> int:
    """Try the types named, or all -> 1 where one has a fault."""
    import torch

    parser = parser_of(__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for model_type in asked.types or moe_types():
        rows.append(try_type(model_type))
        print(*(str(value) for value in astuple(rows[-1]) if value not in (None, "")), sep=" | ", flush=True)
    counts = Counter(row.verdict for row in rows)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    if asked.out is not None:
        columns = [field.name for field in fields(Row)]
        pd.DataFrame([astuple(row) for row in rows], columns=columns).convert_dtypes().to_csv(asked.out, index=False)
    return int(any(counts[fault] for fault in FAULTS))


if __name__ == "__main__":
    run(main)
