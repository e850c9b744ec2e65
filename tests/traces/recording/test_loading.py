"""Whatever the library can load: multimodal wrappers, code of a model's own where it is allowed, devices by name."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from scripts.studies.families.tiny import save_tiny, tiny_model
from tests.support.tiny_models import build, save_model
from traces.errors import UserError
from traces.recording.loading import load_model
from traces.recording.prompts import Prompt
from traces.recording.recorder import RecordOptions, record

OPTIONS = RecordOptions(max_new_tokens=3)


def own_folder(folder: Path) -> Path:
    """A model whose class lies beside its weights."""
    model = build("olmoe")
    save_model(model, folder)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})  # by the names of its own modules
    (folder / "configuration_own.py").write_text(
        "from transformers import OlmoeConfig\nclass OwnConfig(OlmoeConfig):\n    model_type = 'own_moe'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import OlmoeForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(OlmoeForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own_moe",
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_of_a_models_own_runs_only_where_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = own_folder(tmp_path / "m")
    with pytest.raises(UserError, match=r"code of its own.*model\.trust_remote_code=true allows it"):
        load_model(str(folder))
    loaded = load_model(str(folder), trust_remote_code=True)
    assert type(loaded.model).__name__ == "OwnForCausalLM"
    trace = record(loaded, (Prompt("hello"),), OPTIONS, progress=False)
    assert trace.score_function == "softmax"
    assert trace.provenance["notes"] == [
        "code of the model's own ran (configuration_own.py), as model.trust_remote_code=true allows"
    ]


@pytest.mark.parametrize("model_type", ["qwen3_vl_moe", "mistral4"])
def test_multimodal_models_are_recorded_from_text(tmp_path: Path, model_type: str) -> None:
    loaded = load_model(str(save_tiny(tiny_model(model_type), tmp_path / "m")), "float32")
    trace = record(loaded, (Prompt("hello"),), OPTIONS, progress=False)
    assert trace.num_experts == 8 and trace.router_logits is not None and trace.score_function == "softmax_topk"
    sizes = {name: p.numel() * p.element_size() for name, p in loaded.model.named_parameters()}
    sees = sum(size for name, size in sizes.items() if any(part in name for part in ("vis", "projector")))
    tables = sum(size for name, size in sizes.items() if "embed_tokens" in name)
    geometry = trace.geometry
    parts = (geometry.expert_bytes, geometry.attention_bytes, geometry.shared_bytes)
    experts, attention, shared = (sum(part or ()) for part in parts)
    assert geometry.other_bytes is not None and (sees > 0) == (model_type == "qwen3_vl_moe")
    # What sees is not read in a pass over text.
    assert 8 * experts + attention + shared + geometry.other_bytes + tables + sees == sum(sizes.values())


@pytest.mark.parametrize(
    ("model_type", "sentence"),
    [
        ("openai_privacy_filter", "no class of transformers makes text with a openai_privacy_filter model"),
        ("diffusion_gemma", "receives 256 tokens in a pass over 8"),
        ("doge", "doge has 8 experts per layer but cannot be hooked"),
    ],
)
def test_what_cannot_be_recorded_says_why(tmp_path: Path, model_type: str, sentence: str) -> None:
    folder = save_tiny(tiny_model(model_type), tmp_path / "m")
    with pytest.raises(UserError, match=sentence):
        record(load_model(str(folder), "float32"), (Prompt("hello"),), OPTIONS, progress=False)


def test_devices_and_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(save_model(build("olmoe"), tmp_path / "m"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert next(load_model(folder, device="auto").model.parameters()).device.type == "cpu"
    for device, sentence in (
        ("cuda", "torch sees no CUDA device"),
        ("gpu", "must be cpu, cuda, cuda:<number> or auto"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_model(folder, device=device)
    with pytest.raises(UserError, match=r"model\.device_map=balanced: must be null"):
        load_model(folder, device_map="balanced")
    monkeypatch.setattr("traces.recording.model_classes.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs accelerate.*moe-offload-sim\[large\]"):
        load_model(folder, device_map="auto")
