"""gpt-oss-20b decode routing: a folder with experts.npz, weights_f16.npz and requests.jsonl.

experts.npz: experts uint8 [T, 24, 4] in falling weight, offsets [R+1], prompt_len [R]; weights_f16.npz: weights float16
[T, 24, 4], softmax over the four chosen; requests.jsonl: one record per request with dataset and repetition. Only
decode tokens are there, and no scores of experts that were not chosen. Bytes per expert are not recorded.
Source: https://github.com/AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting (converted from its JSON, Apache-2.0)
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from traces.errors import UserError
from traces.format.trace import DECODE, Geometry, Trace
from traces.importers._sources import expert_ids, json_lines, npz_array, require, sha256_of

EXAMPLE = "gpt_oss gpt_oss_20b/ gpt_oss.safetensors"
NUM_EXPERTS = 32


def add_options(parser: argparse.ArgumentParser) -> None:
    """This format needs no options."""


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in folder `source`; requests are labelled by their data set."""
    require(source, "folder")
    files = {name: require(source / name, "file") for name in ("experts.npz", "weights_f16.npz", "requests.jsonl")}
    ids = expert_ids(npz_array(files["experts.npz"], "experts"), NUM_EXPERTS, "'experts' of experts.npz")
    if ids.ndim != 3:
        raise UserError(f"'experts' of experts.npz has shape {ids.shape}: must be (tokens, layers, top_k)")
    prompt_len = npz_array(files["experts.npz"], "prompt_len").astype(np.int32)
    records = _records(files["requests.jsonl"])
    if len(records) != len(prompt_len):
        raise UserError(f"requests.jsonl has {len(records)} records for {len(prompt_len)} requests in experts.npz")
    return Trace(
        geometry=Geometry("gpt_oss_20b", ids.shape[1], NUM_EXPERTS, ids.shape[2]),
        topk_ids=ids,
        topk_weights=npz_array(files["weights_f16.npz"], "weights"),
        request_offsets=npz_array(files["experts.npz"], "offsets").astype(np.int64),
        prompt_len=prompt_len,
        phase=np.full(len(ids), DECODE, np.uint8),
        score_function="softmax_topk",
        request_labels=tuple(record["dataset"] for record in records),
        provenance={
            "imported_from": "gpt_oss",
            "source": "https://github.com/AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting",
            "sha256": {name: sha256_of(path) for name, path in files.items()},
            "notes": [
                "Greedy decode tokens only: prefill was not recorded.",
                "Requests in requests_with_repetition loop, which inflates locality.",
            ],
            "requests_with_repetition": [i for i, record in enumerate(records) if record.get("repetition") is True],
        },
    )


def _records(path: Path) -> list[dict[str, Any]]:
    """One JSON object per line, each with a data set."""
    records = []
    for where, record in json_lines(path):
        if not isinstance(record, dict) or not isinstance(record.get("dataset"), str):
            raise UserError(f"{where} has no text field 'dataset'")
        records.append(record)
    return records
