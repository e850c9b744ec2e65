"""Quantised checkpoints: what they need is said, sizes are those of the files, and routing is that of the weights."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.studies.families.tiny import save_tiny, tiny_model
from tests.support.tiny_models import build, save_model
from traces.errors import UserError
from traces.format.trace import Geometry
from traces.recording.loading import load_model
from traces.recording.measured_geometry import measure_geometry
from traces.recording.moe_layers import find_moe_layers
from traces.recording.prompts import Prompt
from traces.recording.recorder import RecordOptions, record
from traces.recording.stored_sizes import as_stored, stored_tensors

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed here"
)


def change_config(folder: Path, **values: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def mxfp4_folder(folder: Path) -> Path:
    """A tiny gpt-oss whose experts are stored as MXFP4: 32 numbers of 4 bits with a scale of 8 bits."""
    save_tiny(tiny_model("gpt_oss", intermediate_size=64), folder)
    stored = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inside, outside = value.shape
            blocks = (experts, outside, inside // 32)
            generator = torch.Generator().manual_seed(len(stored))
            stored[f"{name}_blocks"] = torch.randint(0, 255, (*blocks, 16), dtype=torch.uint8, generator=generator)
            stored[f"{name}_scales"] = torch.full(blocks, 120, dtype=torch.uint8)
        else:
            stored[name] = value.to(torch.bfloat16)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return change_config(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})


@pytest.mark.parametrize(
    ("method", "package", "extra"),
    [("mxfp4", "accelerate", "quantised"), ("fp8", "accelerate", "quantised"), ("awq", "gptqmodel", "gptq"),
     ("gptq", "optimum", "gptq"), ("compressed-tensors", "compressed-tensors", "quantised"),
     ("bitsandbytes", "bitsandbytes", "bitsandbytes")],
)  # fmt: skip
def test_a_missing_package_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, package: str, extra: str
) -> None:
    folder = save_model(build("olmoe"), tmp_path / "m")
    change_config(folder, quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
    monkeypatch.setattr("traces.recording.model_classes.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=rf"quantised \({method}\), which needs .*{package}.*moe-offload-sim\[{extra}\]"
    ):
        load_model(str(folder))


@needs_accelerate
def test_mxfp4_is_recorded_with_the_sizes_of_its_files(tmp_path: Path) -> None:
    folder = mxfp4_folder(tmp_path / "m")
    loaded = load_model(str(folder), "bfloat16")
    trace = record(loaded, (Prompt("hello"),), RecordOptions(max_new_tokens=3), progress=False)
    hidden, ffn, stored_bits = 32, 64, 4 + 8 / 32
    weights, biases = (3 * hidden * ffn), (2 * ffn + hidden)
    assert trace.geometry.expert_bytes == (int(weights * stored_bits / 8) + 2 * biases,) * 4
    assert trace.geometry.weight_bits == pytest.approx(
        8 * trace.geometry.expert_bytes[0] / (weights + biases), abs=1e-3
    )
    assert trace.score_function == "softmax_topk" and trace.router_logits is not None
    assert any("stored quantised (mxfp4)" in note for note in trace.provenance["notes"])
    parts = (trace.geometry.expert_bytes, trace.geometry.attention_bytes, trace.geometry.shared_bytes)
    experts, attention, shared = (sum(part or ()) for part in parts)
    table = 300 * hidden * 2
    assert trace.geometry.other_bytes is not None
    assert 8 * experts + attention + shared + trace.geometry.other_bytes + table == sum(stored_tensors(folder).values())


@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe", "deepseek_v3", "mixtral"])
def test_sizes_of_files_are_those_counted_where_nothing_is_quantised(tmp_path: Path, family: str) -> None:
    folder = save_model(build(family), tmp_path / "m")
    loaded = load_model(str(folder), "float32")
    layers = find_moe_layers(loaded.model)
    counted = measure_geometry(loaded.model, layers, family)
    # A correction bias of 8 numbers is stored and counts as read with the router; it is no parameter.
    bias = 8 * 4 if family == "deepseek_v3" else 0
    assert counted.attention_bytes is not None
    counted = replace(counted, attention_bytes=tuple(size + bias for size in counted.attention_bytes))
    assert as_stored(counted, layers, stored_tensors(folder)) == counted


def test_names_that_tell_nothing_give_no_sizes() -> None:
    layers = find_moe_layers(build("olmoe"))
    bare = Geometry("m", len(layers), 8, 3)
    inside = {f"model.layers.{i}.block_sparse_moe.input_linear.weight": 8 for i in range(3)}  # as Granite stores them
    assert as_stored(bare, layers, inside) is None
    assert as_stored(bare, layers, {"w0": 10, "w1": 20}) is None
    assert as_stored(bare, layers, {f"{part}.layers.{i}.mlp.experts.w": 8 for part in "ab" for i in range(3)}) is None


@needs_accelerate
def test_a_model_spread_by_its_map_gives_the_same_trace(tmp_path: Path) -> None:
    folder = save_model(build("olmoe"), tmp_path / "m")
    options = RecordOptions(max_new_tokens=3)
    plain = record(load_model(str(folder), "float32"), (Prompt("hello"),), options, progress=False)
    spread = record(load_model(str(folder), "float32", device_map="auto"), (Prompt("hello"),), options, progress=False)
    assert np.array_equal(plain.topk_ids, spread.topk_ids) and plain.geometry == spread.geometry
