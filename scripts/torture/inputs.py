"""A good input for every importer and for other files that the tool reads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.paths import CONF
from tests.support.random_traces import recorded_trace
from traces.format.files import write_trace
from traces.format.trace import Trace

PHASES = ("prefill", "decode")


def small_trace(seed: int = 0, requests: int = 3, width: int | None = None) -> Trace:
    """A random trace with everything that a trace may hold; `width`: only the best scores are listed."""
    prompts = [i % 3 for i in range(requests)]
    trace: Trace = recorded_trace(seed, prompts, [4] * requests, width=width)
    layers, experts = trace.num_layers, trace.num_experts
    alike = np.broadcast_to(np.eye(experts, dtype=np.float16), (layers, experts, experts)).copy()
    sevens, nothing = (7,) * layers, (0,) * layers
    geometry = replace(trace.geometry, attention_bytes=sevens, shared_bytes=nothing, other_bytes=5, hidden_size=16)
    geometry = replace(geometry, kv_bytes_per_token=4)
    return replace(trace, geometry=geometry, expert_similarity=alike)


def trace(folder: Path) -> None:
    write_trace(folder / "t.safetensors", small_trace())


def cut_trace(folder: Path) -> None:
    write_trace(folder / "t.safetensors", small_trace(1, width=4))


def gpt_oss(folder: Path) -> None:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((7, 3, 32)), -1)[..., :4].astype(np.uint8)
    weights = -np.sort(-rng.random((7, 3, 4)), -1).astype(np.float16)
    np.savez(folder / "experts.npz", experts=ids, offsets=np.array([0, 3, 7]), prompt_len=np.array([5, 6]))
    np.savez(folder / "weights_f16.npz", weights=weights)
    records = [{"dataset": "a", "repetition": False}, {"dataset": "b", "repetition": True}]
    (folder / "requests.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def big_moe(folder: Path) -> None:
    lines = ["# model=a/b.gguf n_layer=2 n_expert=8 n_expert_used=2"]
    lines += [f"# layer={layer} expert_bytes=1000 dense_bytes=50" for layer in range(2)]
    lines += ["turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"]
    for phase, step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for layer in range(2):
            if (phase, step, layer) != (0, 0, 1):
                lines += [
                    f"0,{phase},{step},{layer},{slot},{step + 3 * slot},0.{6 - slot},hit,1000" for slot in range(2)
                ]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")


def jsonl(folder: Path) -> None:
    cells = [(request, token, layer) for request in ("a", 7) for token in range(2) for layer in range(2)]
    lines = [
        {"request": r, "token": t, "layer": la, "experts": [1 + la, 5], "weights": [0.7, 0.3], "phase": PHASES[t]}
        for r, t, la in cells
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def mixtral(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [sorted(rng.choice(8, 5 if i < 32 else 2, replace=False)) for i in range(96)]
    (folder / "a.txt").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


def moe_beyond(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["Layer ID,Batch Number,Token,Activated Expert IDs"]
    for layer in (1, 2):
        chosen = [rng.choice(64, 6, replace=False).tolist() for _ in range(3)]
        lines += [f'{layer},0,{t},"{ids}"' for t, ids in zip(("the", '"a,b"', "c"), chosen, strict=True)]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")


def npy(folder: Path) -> None:
    np.save(folder / "a.npy", np.argsort(np.random.default_rng(0).random((6, 3, 8)), -1)[..., :2].astype(np.int32))


def npz(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"request_{i}": np.argsort(rng.random((2 + i, 3, 8)), -1)[..., :2] for i in (1, 2, 10)}
    np.savez_compressed(folder / "a.npz", **arrays)  # type: ignore[arg-type]


def prompts(folder: Path) -> None:
    (folder / "p.txt").write_text("Why is the sky blue?\n\nÜber alles\nthird\n", encoding="utf-8")
    records = [{"prompt": "Why?"}, {"prompt": "Wie?", "label": "de"}, {"prompt": "x" * 100, "label": None}]
    (folder / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def yaml(name: str, place: str = ".") -> Callable[[Path], None]:
    """Copies a file of conf to a.yaml."""

    def make(folder: Path) -> None:
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "a.yaml").write_bytes((CONF / f"{name}.yaml").read_bytes())

    return make


def results(folder: Path) -> None:
    """The output folder of a run."""
    from hydra.core.global_hydra import GlobalHydra

    from sim.__main__ import main

    GlobalHydra.instance().clear()
    with redirect_stdout(io.StringIO()):
        main(["run", "policy=lru", "engine=compiled", "trace.requests=3", f"hydra.run.dir={folder}"])


def predictor(folder: Path) -> None:
    from tests.support.small_predictors import KINDS, request_trace, untrained

    untrained(request_trace(), KINDS["tokens"], folder / "p.safetensors")


def tiny_recipe() -> Any:
    from traces.demo.recipe import Recipe

    model: dict[str, Any] = {
        "num_layers": 1,
        "num_experts": 4,
        "top_k": 2,
        "hidden_size": 8,
        "expert_ffn_size": 4,
        "num_heads": 2,
    }
    model |= {"vocab_size": 300, "context_tokens": 16, "batch_size": 2, "steps": 2, "warmup_steps": 1}
    return Recipe("tiny", **model)


def training(folder: Path) -> None:
    import torch

    from traces.demo.train import train

    streams = [torch.arange(200) % 300, torch.arange(200) % 7]
    train(tiny_recipe(), streams, folder / "checkpoint.safetensors", stop_after=1)


def summary(folder: Path) -> None:
    summary = {"recipe": "demo", "seed": 0, "steps": 420, "final_loss": 3.2, "corpus_sha256": "0" * 64, "torch": "2"}
    (folder / "training.json").write_text(json.dumps(summary, indent=1))


ROUTING = [[[0, 1], [0, 1]], [[1, 0], [2, 3]], [[0, 1], [2, 1]], [[2, 3], [1, 2]], [[3, 2], [0, 3]]]
"""Experts of five tokens in two layers; the first two are the prompt."""


def _cells() -> list[tuple[int, int, list[int]]]:
    return [(token, layer, experts) for token, row in enumerate(ROUTING) for layer, experts in enumerate(row)]


def _lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def table_csv(folder: Path) -> None:
    """A row per rank of two requests."""
    lines = ["seq_id,is_decode,pos,layer,rank,expert,weight"]
    for request in "ab":
        for token, layer, experts in _cells():
            lines += [
                f"{request},{int(token > 1)},{token},{layer + 1},{rank},{expert},{0.7 - 0.4 * rank}"
                for rank, expert in enumerate(experts)
            ]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")


def table_jsonl(folder: Path) -> None:
    """Turns, scores, fewer experts."""
    records = [
        {
            "conversation": "c",
            "turn": t // 3,
            "tok": t,
            "layer": la,
            "experts": ids[: 1 + t % 2],
            "logits": [4, 3, 2, 1],
        }
        for t, la, ids in _cells()
    ]
    _lines(folder / "a.jsonl", records)


def table_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{"request_id": "r", "token": t, "layer": la, "topk_ids": ids} for t, la, ids in _cells()]
    pq.write_table(pa.Table.from_pylist(records), folder / "a.parquet")


def table_gzip(folder: Path) -> None:
    import gzip

    table_csv(folder)
    (folder / "a.csv.gz").write_bytes(gzip.compress((folder / "a.csv").read_bytes()))
    (folder / "a.csv").unlink()


def llama(folder: Path) -> None:
    lines = [f"{layer},{expert}" for layer in range(2) for row in ROUTING[:2] for expert in row[layer]]
    lines += [f"{layer},{expert}" for row in ROUTING[2:] for layer in range(2) for expert in row[layer]]
    (folder / "a.csv").write_text("\n".join(["layer,expert", *lines]) + "\n")


def megatron(folder: Path) -> None:
    steps = [(0, 2), (2, 3), (3, 4), (4, 5)]
    records = [
        {"step": at, "stage": "pre_dispatch", "layer": la, "rank": 0, "top_indices": [row[la] for row in ROUTING[a:b]]}
        for at, (a, b) in enumerate(steps)
        for la in range(2)
    ]
    _lines(folder / "a.jsonl", records)


def moe_cache_lab(folder: Path) -> None:
    head = {"record_type": "metadata", "format": "moe-cache-lab.routing-jsonl", "format_version": 1, "num_experts": 4}
    kind = {"record_type": "routing_selection"}
    records = [
        kind | {"phase": "generated", "token_position": t, "layer": la, "selected_experts": ids}
        for t, la, ids in _cells()
    ]
    _lines(folder / "a.jsonl", [head, *records])


def expertflow(folder: Path) -> None:
    records = [
        {"schema_version": "1.0.0", "request_id": "r", "conversation_id": "c", "turn_index": t // 3, "phase": "decode"}
        | {"forward_id": t, "token_index": t, "token_id": t, "layer_id": la, "selected_expert_ids": ids}
        for t, la, ids in _cells()
    ]
    _lines(folder / "a.jsonl", records)


def lattice(folder: Path) -> None:
    records = [
        {"layer_idx": la, "token_idx": t, "selected_ids": ids, "gate_weights": [0.6, 0.4]} for t, la, ids in _cells()
    ]
    _lines(folder / "a.jsonl", records)


def moe_policylang(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [
        {"seq_id": 0, "pos": t, "layer": la, "rank": k, "expert": e, "weight": 0.6 - 0.2 * k, "is_decode": int(t > 1)}
        for t, la, ids in _cells()
        for k, e in enumerate(ids)
    ]
    pq.write_table(pa.Table.from_pylist(records), folder / "a.parquet")


def answers(folder: Path) -> None:
    """Two turns of a dialogue as SGLang answers."""
    import base64

    ids = np.argsort(np.random.default_rng(0).random((8, 3, 8)), -1)[..., :2].astype("<i4")
    records = []
    for prompt, start, end in ((3, 0, 4), (6, 4, 8)):
        held = {
            "routed_experts": base64.b64encode(ids[start:end].tobytes()).decode(),
            "routed_experts_start_len": start,
        }
        usage = {"prompt_tokens": prompt, "completion_tokens": end + 1 - prompt}
        records.append({"choices": [{"sgl_ext": held}], "usage": usage})
    (folder / "a.json").write_text(json.dumps(records))
