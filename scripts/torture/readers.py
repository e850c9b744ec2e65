"""Every reader of the tool beside a good input for it, and what a success must look like."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import sim.assembly.catalogue
import sim.machine.hardware
import sim.machine.model
import sim.machine.runtime
from scripts.torture import inputs, stated_files
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
from sim.machine.machine import Machine
from traces.format.files import read_trace, write_trace
from traces.importers import load_importer

HEADER = (*BINARY, *(spoil_header,) * 6)
TRACE = (*HEADER, *(spoil_unproved,) * 12)
JSON = (*TEXT, *(spoil_json_file,) * 6)
ARRAY = (*BINARY, *(spoil_npy,) * 6)
ARRAYS = (*BINARY, *(spoil_members,) * 6)
Corrupted = dict[str, tuple[Mutation, ...]]
RESULTS: Corrupted = {
    **dict.fromkeys(("metrics.json", "provenance.json"), JSON),
    **dict.fromkeys(("steps.parquet", "requests.parquet", "blocks.parquet"), BINARY),
    ".hydra/overrides.yaml": TEXT,
}
EIGHT = ("--num-experts", "8")


@dataclass(frozen=True)
class Reader:
    """`make` writes a good input into a folder; `read` reads it as the tool does, and proves what it got."""

    name: str
    make: Callable[[Path], None]
    corrupted: Corrupted
    """File of the input -> ways to corrupt it."""
    read: Callable[[Path], Any]
    share: float = 1.0
    """How many of all cases it gets, relative to the others; 0: only when it is asked for by name."""


def importer(name: str, make: Callable[[Path], None], corrupted: Corrupted, *options: str, kind: str = "") -> Reader:
    """Imports the input's file, or its folder where it has several; what is written must then read the same."""

    def read(folder: Path) -> None:
        module = load_importer(name)
        parser = argparse.ArgumentParser()
        module.add_options(parser)
        source = folder if len(corrupted) > 1 else folder / next(iter(corrupted))
        trace = module.read(source, parser.parse_args(list(options)))
        written = write_trace(folder / "out.safetensors", trace)
        assert read_trace(folder / "out.safetensors").content_hash == written.content_hash

    return Reader(f"import {name}{kind}", make, corrupted, read)


IMPORTERS = (
    importer("big_moe_on_edge", inputs.big_moe, {"a.csv": TEXT}),
    importer("gpt_oss", inputs.gpt_oss, {"experts.npz": ARRAYS, "weights_f16.npz": ARRAYS, "requests.jsonl": JSON}),
    importer("jsonl", inputs.jsonl, {"a.jsonl": JSON}, *EIGHT),
    importer("mixtral_offloading", inputs.mixtral, {"a.txt": TEXT}),
    importer("moe_beyond", inputs.moe_beyond, {"a.csv": TEXT}),
    importer("routed_experts", inputs.npy, {"a.npy": ARRAY}, *EIGHT, kind=" npy"),
    importer("routed_experts", inputs.npz, {"a.npz": ARRAYS}, *EIGHT, kind=" npz"),
    importer("routed_experts", inputs.answers, {"a.json": JSON}, *EIGHT, "--top-k", "2", kind=" json"),
    importer("table", inputs.table_csv, {"a.csv": TEXT}, kind=" csv"),
    importer("table", inputs.table_jsonl, {"a.jsonl": JSON}, kind=" jsonl"),
    importer("table", inputs.table_parquet, {"a.parquet": BINARY}, kind=" parquet"),
    importer("table", inputs.table_gzip, {"a.csv.gz": BINARY}, kind=" gzip"),
    importer("llama_moe_trace", inputs.llama, {"a.csv": TEXT}),
    importer("megatron", inputs.megatron, {"a.jsonl": JSON}),
    importer("moe_cache_lab", inputs.moe_cache_lab, {"a.jsonl": JSON}),
    importer("expertflow", inputs.expertflow, {"a.jsonl": JSON}),
    importer("lattice", inputs.lattice, {"a.jsonl": JSON}),
    importer("moe_policylang", inputs.moe_policylang, {"a.parquet": BINARY}),
)


@cache
def readers() -> dict[str, Reader]:
    """All readers by name."""
    all_readers = [
        Reader("trace", inputs.trace, {"t.safetensors": TRACE}, read_whole_trace, 3.0),
        Reader("trace, truncated scores", inputs.cut_trace, {"t.safetensors": TRACE}, read_whole_trace),
        Reader("info", inputs.trace, {"t.safetensors": TRACE}, read_info, 0.6),
        Reader("replay", inputs.trace, {"t.safetensors": TRACE}, read_replay, 0.3),
        *IMPORTERS,
        Reader("prompts txt", inputs.prompts, {"p.txt": TEXT}, lambda folder: read_prompt_file(folder / "p.txt"), 0.4),
        Reader("prompts jsonl", inputs.prompts, {"p.jsonl": JSON}, lambda folder: read_prompt_file(folder / "p.jsonl")),
        Reader("hardware yaml", inputs.yaml("hardware/s1_rtx3080ti"), {"a.yaml": TEXT}, read_hardware, 0.3),
        Reader("runtime yaml", inputs.yaml("runtime/eager_hf"), {"a.yaml": TEXT}, read_runtime, 0.3),
        *(
            Reader(
                f"model config {name}",
                stated_files.model_config(name),
                {"config.json": JSON},
                stated_files.read_model_config,
                0.5,
            )
            for name in ("nemotron_3_nano_30b_a3b", "gemma_4_26b_a4b", "deepseek_v3_2")
        ),
        Reader("model gguf", stated_files.model_gguf, {"a.gguf": BINARY}, stated_files.read_model_gguf),
        Reader("model yaml", inputs.yaml("model/gpt_oss_20b"), {"a.yaml": TEXT}, read_model, 0.3),
        Reader(
            "policy yaml", inputs.yaml("policy/eviction/mrs", "eviction"), {"eviction/a.yaml": TEXT}, read_rule, 0.3
        ),
        Reader("conformance answers", stated_files.answers_of_a_tool, {"a.json": JSON}, stated_files.read_answers, 0.5),
        Reader(
            "corpus", stated_files.corpus, {"corpus.csv": TEXT, "machines.csv": TEXT}, stated_files.read_published, 0.5
        ),
        Reader("kernel wheel", stated_files.wheel, {"a.whl": BINARY}, stated_files.read_a_wheel, 0.2),
        Reader("measured row", stated_files.own_row, {"row.yaml": TEXT}, stated_files.read_own_row, 0.3),
        Reader("measured rows", stated_files.own_rows, {"rows.csv": TEXT}, stated_files.read_own_rows, 0.3),
        Reader(
            "validation",
            stated_files.validation,
            {"plan.json": JSON, "runs.json": JSON, "tokens.parquet": BINARY},
            stated_files.read_validation,
            0.2,
        ),
        Reader(
            "published runs", stated_files.published_runs, {"measured.csv": TEXT}, stated_files.read_published_runs, 0.2
        ),
        Reader("rule of one's own", stated_files.user_rule, {"rule.py": TEXT}, stated_files.read_user_rule, 0.1),
        Reader("card", inputs.yaml("card/gpt_oss_20b"), {"a.yaml": TEXT}, stated_files.read_a_card, 0.3),
        Reader("card of a curve", stated_files.curve, {"a.csv": TEXT}, stated_files.read_a_curve, 0.1),
        Reader("results", inputs.results, RESULTS, read_results, 0.2),
        Reader("predictor", inputs.predictor, {"p.safetensors": HEADER}, read_predictor),
        Reader("demo training", inputs.training, {"checkpoint.safetensors": HEADER}, read_training, 0.2),
        Reader("demo summary", inputs.summary, {"training.json": JSON}, read_summary, 0.3),
    ]
    return {reader.name: reader for reader in all_readers}


def read_whole_trace(folder: Path) -> None:
    """A success is a trace that is valid and whose content has the hash that it claims."""
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
    from sim.assembly.catalogue import load_policy
    from sim.assembly.replay import DeviceSetup, assemble
    from sim.config import RunConfig, TraceConfig
    from sim.machine.geometry import resolve_geometry
    from sim.metrics.step_table import StepTable
    from sim.results.outputs import write_run

    path = folder / "t.safetensors"
    trace = read_trace(path)
    geometry, *_ = resolve_geometry(trace, TraceConfig(path=str(path)), {"name": "auto"})
    machine, run = Machine(sim.machine.hardware.load_hardware("s1_rtx3080ti")), RunConfig(engine="compiled")
    replay = assemble(trace, DeviceSetup(load_policy("lru"), machine, run=run), geometry)
    table = StepTable(replay).run()
    config = {"trace": {"path": str(path), "embedded": None}, "cache": {}}
    metrics = write_run(folder / "out", replay, table, config, 0.0)
    assert metrics["num_tokens"] == trace.num_tokens


def read_prompt_file(path: Path) -> None:
    from traces.recording.prompts import read_prompts

    prompts = read_prompts(str(path), None, 0, 16)
    assert prompts
    for prompt in prompts:
        assert prompt.text and prompt.text.encode()


@contextmanager
def folder_of(module: Any, name: str, folder: Path) -> Iterator[None]:
    """A module's folder of yamls is another one for a while."""
    before = getattr(module, name)
    setattr(module, name, folder)
    sim.machine.model._dimension_files.cache_clear()
    try:
        yield
    finally:
        setattr(module, name, before)
        sim.machine.model._dimension_files.cache_clear()


def read_runtime(folder: Path) -> None:
    with folder_of(sim.machine.runtime, "RUNTIME_FOLDER", folder):
        runtime = sim.machine.runtime.load_runtime("a")
    figures = [getattr(runtime, name) for name in sim.machine.runtime.RUNTIME_PARAMETERS]
    assert all(figure is None or np.isfinite(figure) for figure in figures), "a figure is no number"


def read_hardware(folder: Path) -> None:
    with folder_of(sim.machine.hardware, "HARDWARE_FOLDER", folder):
        machine = sim.machine.hardware.load_hardware("a")
    figures = [getattr(machine, name) for name in sim.machine.hardware.FIGURES]
    assert all(figure is None or (np.isfinite(figure) and figure >= 0) for figure in figures)


def read_model(folder: Path) -> None:
    with folder_of(sim.machine.model, "MODEL_FOLDER", folder):
        assert min(sim.machine.model.load_geometry("a").expert_bytes or (0,)) > 0


def read_rule(folder: Path) -> None:
    """A rule's yaml, as `python -m sim policies` shows it."""
    with folder_of(sim.assembly.catalogue, "POLICY_FOLDER", folder):
        sim.assembly.catalogue.load_rule("eviction", "a")


def read_results(folder: Path) -> None:
    from sim.results.table import collect

    assert len(collect(folder)) == 1


def read_predictor(folder: Path) -> None:
    """Reads it as a replay does, on the requests it did not learn from, and asks for forecasts: probabilities."""
    from policies.prediction.moe_beyond import MoeBeyond
    from sim.predictors.forecast import make_forecaster
    from tests.support.small_predictors import request_trace

    trace = request_trace().select_requests(2)
    forecasts = make_forecaster(MoeBeyond(checkpoint=str(folder / "p.safetensors")), trace).read(
        np.arange(trace.num_tokens)
    )
    assert ((forecasts >= 0) & (forecasts <= 1)).all()


@cache
def tiny_model() -> Any:
    from transformers import OlmoeForCausalLM

    from traces.demo.recipe import model_config

    return OlmoeForCausalLM(model_config(inputs.tiny_recipe()))


def read_training(folder: Path) -> None:
    import torch

    from traces.demo.train import _continue_from

    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters())
    done, losses = _continue_from(folder / "checkpoint.safetensors", model, optimizer)
    assert done == len(losses) and 0 <= done <= 2


def read_summary(folder: Path) -> None:
    from traces.demo.cache import training_summary

    assert isinstance(training_summary(folder)["corpus_sha256"], str)
