"""Every reader of the tool beside a good input for it, and what a success must look like."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scripts.torture.mutations import (
    BINARY,
    TEXT,
    Mutation,
    spoil_header,
    spoil_json_file,
    spoil_members,
    spoil_npy,
    spoil_unproved,
)
from traces.format.trace import DECODE, PREFILL, Geometry, ScoreTable, Trace

HEADER = (*BINARY, *(spoil_header,) * 6)
TRACE = (*HEADER, *(spoil_unproved,) * 12)
JSON = (*TEXT, *(spoil_json_file,) * 6)
ARRAY = (*BINARY, *(spoil_npy,) * 6)
RULE = "eviction/a.yaml"
PHASES = ("prefill", "decode")
RESULTS = {
    **dict.fromkeys(("metrics.json", "provenance.json"), JSON),
    **dict.fromkeys(("steps.parquet", "requests.parquet", "blocks.parquet"), BINARY),
    ".hydra/overrides.yaml": TEXT,
}
EIGHT = ("--num-experts", "8")
ARRAYS = (*BINARY, *(spoil_members,) * 6)


@dataclass(frozen=True)
class Reader:
    """`make` writes a good input into a folder; `read` reads it as the tool does, and proves what it got."""

    name: str
    make: Callable[[Path], None]
    spoiled: dict[str, tuple[Mutation, ...]]
    """File of the input -> ways to spoil it."""
    read: Callable[[Path], Any]
    share: float = 1.0
    """How many of all cases it gets, relative to the others; 0: only when it is asked for by name."""


def small_trace(seed: int = 0, requests: int = 3, width: int | None = None, experts: int = 8) -> Trace:
    """A random trace with everything that a trace may hold; `width`: only the best scores are listed."""
    rng = np.random.default_rng(seed)
    layers, top_k = 3, 2
    lengths = np.array([4 + i % 3 for i in range(requests)])
    rows = int(lengths.sum())
    prompt = np.array([i % 3 for i in range(requests)])
    logits = rng.normal(size=(rows, layers, experts)).astype(np.float32)
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    chosen = np.exp(np.take_along_axis(logits, ids, -1))
    phase = np.concatenate([np.repeat([PREFILL, DECODE], (p, n - p)) for p, n in zip(prompt, lengths, strict=True)])
    alike = np.broadcast_to(np.eye(experts, dtype=np.float16), (layers, experts, experts)).copy()
    ahead = ScoreTable(rng.normal(size=(rows, layers - 1, experts)).astype(np.float16))
    return Trace(
        geometry=Geometry("small", layers, experts, top_k, (9,) * layers, (7,) * layers, (0,) * layers, 5, 4, 16, 8.0),
        topk_ids=ids.astype(np.uint8),
        topk_weights=(chosen / chosen.sum(-1, keepdims=True)).astype(np.float32),
        router_logits=ScoreTable(logits) if width is None else cut(logits, width),
        lookahead_before=ahead,
        lookahead_after=ahead,
        token_ids=rng.integers(0, 9, rows).astype(np.int32),
        expert_similarity=alike,
        request_offsets=np.cumsum([0, *lengths]).astype(np.int64),
        prompt_len=prompt.astype(np.int32),
        phase=phase.astype(np.uint8),
        score_function="softmax_topk",
        request_labels=tuple("ab"[i % 2] for i in range(requests)),
        provenance={"made_by": "torture", "notes": ["a", "b"]},
    )  # fmt: skip


def cut(logits: Any, width: int) -> ScoreTable:
    """The `width` best of a dense table."""
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :width]
    mass = np.log(np.exp(logits).sum(-1)).astype(np.float32)
    return ScoreTable(np.take_along_axis(logits, ids, -1), ids.astype(np.uint8), mass)


def readers() -> dict[str, Reader]:
    """All readers by name."""
    found = [
        Reader("trace", make_trace, {"t.safetensors": TRACE}, read_whole_trace, 3.0),
        Reader("trace, truncated scores", make_cut_trace, {"t.safetensors": TRACE}, read_whole_trace),
        Reader("info", make_trace, {"t.safetensors": TRACE}, read_info, 0.6),
        Reader("replay", make_trace, {"t.safetensors": TRACE}, read_replay, 0.3),
        Reader(
            "import gpt_oss",
            make_gpt_oss,
            {"experts.npz": ARRAYS, "weights_f16.npz": ARRAYS, "requests.jsonl": JSON},
            importing("gpt_oss", "."),
        ),
        Reader("import big_moe_on_edge", make_big_moe, {"a.csv": TEXT}, importing("big_moe_on_edge", "a.csv")),
        Reader("import jsonl", make_jsonl, {"a.jsonl": JSON}, importing("jsonl", "a.jsonl", *EIGHT)),
        Reader("import mixtral_offloading", make_mixtral, {"a.txt": TEXT}, importing("mixtral_offloading", "a.txt")),
        Reader("import moe_beyond", make_moe_beyond, {"a.csv": TEXT}, importing("moe_beyond", "a.csv")),
        Reader("import routed npy", make_npy, {"a.npy": ARRAY}, importing("routed_experts", "a.npy", *EIGHT)),
        Reader("import routed npz", make_npz, {"a.npz": ARRAYS}, importing("routed_experts", "a.npz", *EIGHT)),
        Reader("prompts txt", make_prompts, {"p.txt": TEXT}, lambda folder: read_prompt_file(folder / "p.txt"), 0.4),
        Reader("prompts jsonl", make_prompts, {"p.jsonl": JSON}, lambda folder: read_prompt_file(folder / "p.jsonl")),
        Reader("hardware yaml", make_yaml("hardware", "s1_rtx3080ti"), {"a.yaml": TEXT}, read_hardware, 0.3),
        Reader("model yaml", make_yaml("model", "gpt_oss_20b"), {"a.yaml": TEXT}, read_model, 0.3),
        Reader("policy yaml", make_yaml("policy/eviction", "mrs", "eviction"), {RULE: TEXT}, read_rule, 0.3),
        Reader("results", make_results, RESULTS, read_results, 0.2),
        Reader("predictor", make_predictor, {"p.safetensors": HEADER}, read_predictor),
        Reader("demo training", make_training, {"checkpoint.safetensors": HEADER}, read_training, 0.2),
        Reader("demo summary", make_summary, {"training.json": JSON}, read_summary, 0.3),
    ]  # fmt: skip
    return {reader.name: reader for reader in found}


def make_trace(folder: Path) -> None:
    from traces.format.files import write_trace

    write_trace(folder / "t.safetensors", small_trace())


def make_cut_trace(folder: Path) -> None:
    from traces.format.files import write_trace

    write_trace(folder / "t.safetensors", small_trace(1, width=4))


def read_whole_trace(folder: Path) -> None:
    """A success is a trace that is valid and whose content has the hash that it claims."""
    from traces.format.files import read_trace
    from traces.format.tensors import hash_content
    from traces.format.validation import validate

    trace = read_trace(folder / "t.safetensors")
    validate(trace)
    assert trace.content_hash == hash_content(trace), "a changed trace was read as the one that it was"
    assert trace.positions().min() >= 0
    json.dumps(trace.provenance, allow_nan=False)


def read_info(folder: Path) -> None:
    from sim.commands.info import main

    for words in ([], ["--json"]):
        with redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
            main([str(folder / "t.safetensors"), *words])


def read_replay(folder: Path) -> None:
    """Replays what was read and writes the results, which must be finite."""
    from policies.assignment.link_only import LinkOnly
    from policies.base import Policy
    from policies.eviction.lru import Lru
    from policies.prediction.none import NoPrediction
    from policies.prefetch.none import NoPrefetch
    from policies.substitution.none import NoSubstitution
    from sim.assembly.replay import assemble
    from sim.config import RunConfig, TraceConfig
    from sim.machine.geometry import resolve_geometry
    from sim.machine.hardware import load_hardware
    from sim.metrics.step_table import StepTable
    from sim.results.outputs import write_run
    from traces.format.files import read_trace

    path = folder / "t.safetensors"
    trace = read_trace(path)
    geometry, *_ = resolve_geometry(trace, TraceConfig(path=str(path)), {"name": "auto"})
    policy = Policy("lru", Lru(), NoPrediction(), NoPrefetch(), NoSubstitution(), LinkOnly())
    replay = assemble(trace, policy, load_hardware("s1_rtx3080ti"), geometry, run=RunConfig(engine="compiled"))
    table = StepTable(replay)
    table.run()
    config = {"trace": {"path": str(path), "embedded": None}, "cache": {}}
    metrics = write_run(folder / "out", replay, table, config, 0.0)
    assert metrics["num_tokens"] == trace.num_tokens


def importing(name: str, source: str, *options: str) -> Callable[[Path], None]:
    """Reads with an importer and writes the trace, which must then read the same."""

    def read(folder: Path) -> None:
        from traces.format.files import read_trace, write_trace
        from traces.importers import load_importer

        importer = load_importer(name)
        parser = argparse.ArgumentParser()
        importer.add_options(parser)
        trace = importer.read(folder / source, parser.parse_args(list(options)))
        written = write_trace(folder / "out.safetensors", trace)
        assert read_trace(folder / "out.safetensors").content_hash == written.content_hash

    return read


def make_gpt_oss(folder: Path) -> None:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((7, 3, 32)), -1)[..., :4].astype(np.uint8)
    weights = -np.sort(-rng.random((7, 3, 4)), -1).astype(np.float16)
    np.savez(folder / "experts.npz", experts=ids, offsets=np.array([0, 3, 7]), prompt_len=np.array([5, 6]))
    np.savez(folder / "weights_f16.npz", weights=weights)
    records = [{"dataset": "a", "repetition": False}, {"dataset": "b", "repetition": True}]
    (folder / "requests.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def make_big_moe(folder: Path) -> None:
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


def make_jsonl(folder: Path) -> None:
    cells = [(request, token, layer) for request in ("a", 7) for token in range(2) for layer in range(2)]
    lines = [
        {"request": r, "token": t, "layer": la, "experts": [1 + la, 5], "weights": [0.7, 0.3], "phase": PHASES[t]}
        for r, t, la in cells
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_mixtral(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [sorted(rng.choice(8, 5 if i < 32 else 2, replace=False)) for i in range(96)]
    (folder / "a.txt").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


def make_moe_beyond(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["Layer ID,Batch Number,Token,Activated Expert IDs"]
    for layer in (1, 2):
        chosen = [rng.choice(64, 6, replace=False).tolist() for _ in range(3)]
        lines += [f'{layer},0,{t},"{ids}"' for t, ids in zip(("the", '"a,b"', "c"), chosen, strict=True)]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")


def make_npy(folder: Path) -> None:
    np.save(folder / "a.npy", np.argsort(np.random.default_rng(0).random((6, 3, 8)), -1)[..., :2].astype(np.int32))


def make_npz(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"request_{i}": np.argsort(rng.random((2 + i, 3, 8)), -1)[..., :2] for i in (1, 2, 10)}
    np.savez_compressed(folder / "a.npz", **arrays)  # type: ignore[arg-type]


def make_prompts(folder: Path) -> None:
    (folder / "p.txt").write_text("Why is the sky blue?\n\nÜber alles\nthird\n", encoding="utf-8")
    records = [{"prompt": "Why?"}, {"prompt": "Wie?", "label": "de"}, {"prompt": "x" * 100, "label": None}]
    (folder / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def read_prompt_file(path: Path) -> None:
    from traces.recording.prompts import read_prompts

    prompts = read_prompts(str(path), None, 0, 16)
    assert prompts
    for prompt in prompts:
        assert prompt.text and prompt.text.encode()


def make_yaml(group: str, name: str, place: str = ".") -> Callable[[Path], None]:
    """Copies a file of conf."""

    def make(folder: Path) -> None:
        from sim.machine.hardware import HARDWARE_FOLDER

        source = HARDWARE_FOLDER.parent / group / f"{name}.yaml"
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "a.yaml").write_bytes(source.read_bytes())

    return make


def read_hardware(folder: Path) -> None:
    import sim.machine.hardware as hardware

    before, hardware.HARDWARE_FOLDER = hardware.HARDWARE_FOLDER, folder
    try:
        machine = hardware.load_hardware("a")
    finally:
        hardware.HARDWARE_FOLDER = before
    figures = [getattr(machine, name) for name in hardware.FIGURES]
    assert all(figure is None or (np.isfinite(figure) and figure >= 0) for figure in figures)


def read_model(folder: Path) -> None:
    import sim.machine.model as model

    before, model.MODEL_FOLDER = model.MODEL_FOLDER, folder
    model._dimension_files.cache_clear()
    try:
        sizes = model.load_geometry("a")
    finally:
        model.MODEL_FOLDER = before
        model._dimension_files.cache_clear()
    assert min(sizes.expert_bytes or (0,)) > 0


def read_rule(folder: Path) -> None:
    """A rule's yaml, as `python -m sim policies` shows it."""
    import sim.assembly.catalogue as rulebook

    before, rulebook.POLICY_FOLDER = rulebook.POLICY_FOLDER, folder
    try:
        rulebook.load_rule("eviction", "a")
    finally:
        rulebook.POLICY_FOLDER = before


def make_results(folder: Path) -> None:
    """The output folder of a run."""
    from hydra.core.global_hydra import GlobalHydra

    from sim.__main__ import main

    GlobalHydra.instance().clear()
    with redirect_stdout(io.StringIO()):
        main(["run", "policy=lru", "engine=compiled", "trace.requests=3", f"hydra.run.dir={folder}"])


def read_results(folder: Path) -> None:
    from sim.results.table import collect

    assert len(collect(folder)) == 1


def make_predictor(folder: Path) -> None:
    import torch

    from sim.config import TraceConfig
    from sim.predictors.checkpoint import Checkpoint, write_checkpoint
    from sim.predictors.inputs import RowSource, Shape, choose_inputs, vocabulary_of
    from sim.predictors.networks import make_network, tensors_of
    from sim.predictors.settings import MoeBeyondSettings
    from sim.predictors.split import fingerprint, split_requests

    trace = replace(small_trace(2, requests=4), content_hash="x")
    sizes: dict[str, Any] = {
        "width": 8,
        "token_width": 6,
        "layer_width": 4,
        "heads": 2,
        "feed_forward": 16,
        "head_width": 8,
    }
    settings = MoeBeyondSettings("both", context=4, min_count=1, **sizes)
    inputs = choose_inputs(settings, trace)
    vocabulary = vocabulary_of(trace, (2, 3), 1)
    source = RowSource(trace, inputs, vocabulary)
    split = split_requests(4, TraceConfig("demo", fit_requests=2), 0.2, 0)
    torch.manual_seed(0)
    network = make_network(settings, Shape.of(trace), inputs, source.vocabulary.size)
    record = {"trace_hash": "x", "num_requests": 4, "train": list(split.train), "validation": list(split.validation)}
    record |= {"test": list(split.test), "fingerprints": [fingerprint(trace, i) for i in split.learned], "metrics": {}}
    checkpoint = Checkpoint("moe_beyond", settings, Shape.of(trace), inputs, vocabulary, tensors_of(network), record)
    write_checkpoint(folder / "p.safetensors", checkpoint)


def read_predictor(folder: Path) -> None:
    """Reads it as a replay does, on the requests it did not learn from, and asks for forecasts: probabilities."""
    from policies.prediction.moe_beyond import MoeBeyond
    from sim.predictors.forecast import make_forecaster

    trace = small_trace(2, requests=4).select_requests(2)
    part = MoeBeyond(checkpoint=str(folder / "p.safetensors"))
    found = make_forecaster(part, trace).read(np.arange(trace.num_tokens))
    assert ((found >= 0) & (found <= 1)).all()


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


def make_training(folder: Path) -> None:
    import torch

    from traces.demo.train import train

    streams = [torch.arange(200) % 300, torch.arange(200) % 7]
    train(tiny_recipe(), streams, folder / "checkpoint.safetensors", stop_after=1)


_TRAINED: list[Any] = []


def read_training(folder: Path) -> None:
    import torch
    from transformers import OlmoeForCausalLM

    from traces.demo.recipe import model_config
    from traces.demo.train import _continue_from

    if not _TRAINED:
        _TRAINED.append(OlmoeForCausalLM(model_config(tiny_recipe())))
    model = _TRAINED[0]
    optimizer = torch.optim.AdamW(model.parameters())
    done, losses = _continue_from(folder / "checkpoint.safetensors", model, optimizer)
    assert done == len(losses) and 0 <= done <= 2


def make_summary(folder: Path) -> None:
    summary = {"recipe": "demo", "seed": 0, "steps": 420, "final_loss": 3.2, "corpus_sha256": "0" * 64, "torch": "2"}
    (folder / "training.json").write_text(json.dumps(summary, indent=1))


def read_summary(folder: Path) -> None:
    from traces.demo.cache import training_summary

    assert isinstance(training_summary(folder)["corpus_sha256"], str)
