"""Which class of the library loads a model, and what it needs for that: quantised weights, code of the model's own."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from traces.errors import UserError

NEEDED = {
    "mxfp4": (("accelerate",), "quantised"),
    "fp8": (("accelerate",), "quantised"),
    "fbgemm_fp8": (("accelerate",), "quantised"),
    "compressed-tensors": (("compressed_tensors", "accelerate"), "quantised"),
    "awq": (("gptqmodel", "accelerate"), "gptq"),
    "gptq": (("optimum", "gptqmodel"), "gptq"),
    "bitsandbytes": (("bitsandbytes", "accelerate"), "bitsandbytes"),
}
"""What the library needs to load weights quantised by a method, and the extra of this package that brings it."""
TEXT_TABLES = ("CausalLM", "ImageTextToText", "MultimodalLM")
"""The library's auto classes that make text, in the order in which they are tried."""


def auto_class(config: Any, path: str) -> Any:
    """The auto class that makes text with a model of this configuration.

    Raises: UserError where no class does.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    tables = {"CausalLM": "CAUSAL_LM", "ImageTextToText": "IMAGE_TEXT_TO_TEXT", "MultimodalLM": "MULTIMODAL_LM"}
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model.path={path}: {config.model_type} is an encoder-decoder model and cannot be hooked: must be "
            "a causal language model"
        )
    own = getattr(config, "auto_map", None) or {}
    for name in TEXT_TABLES:
        known = getattr(modeling_auto, f"MODEL_FOR_{tables[name]}_MAPPING_NAMES", {})
        if config.model_type in known or f"AutoModelFor{name}" in own:
            return getattr(transformers, f"AutoModelFor{name}")
    raise UserError(
        f"model.path={path}: no class of transformers makes text with a {config.model_type} model: must be a causal or "
        "multimodal language model"
    )


def quantisation(config: Any) -> str | None:
    """By which method the weights of a checkpoint are quantised, None where they are not."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    return str(getattr(method, "value", method))


def check_quantised(method: str, path: str) -> None:
    """Raises: UserError where a package is missing that loads weights of this method."""
    packages, extra = NEEDED.get(method, ((), ""))
    if missing := [name.replace("_", "-") for name in packages if find_spec(name) is None]:
        raise UserError(
            f"model.path={path}: its weights are quantised ({method}), which needs {' and '.join(missing)}: "
            f"pip install 'moe-offload-sim[{extra}]'"
        )


def quantised_arguments(method: str | None) -> dict[str, Any]:
    """What from_pretrained is told of quantised weights.

    MXFP4 kernels take the whole MoE block, so that no hook would see its choice: such weights are dequantised.
    """
    if method != "mxfp4":
        return {}
    from transformers.utils.quantization_config import Mxfp4Config

    return {"quantization_config": Mxfp4Config(dequantize=True)}


def check_device_map(device_map: str | None) -> None:
    """Raises: UserError for a map that is not known, or where what spreads a model is missing."""
    if device_map not in (None, "auto"):
        raise UserError(f"model.device_map={device_map}: must be null (all on model.device) or auto")
    if device_map == "auto" and find_spec("accelerate") is None:
        raise UserError(
            "model.device_map=auto needs accelerate, which spreads a model over GPUs, memory and disk: "
            "pip install 'moe-offload-sim[large]'"
        )


def resolve_device(device: str) -> str:
    """The device named, or for `auto` the first GPU where torch sees one, else the CPU.

    Raises: UserError for a GPU that torch does not see, or a device that it does not know.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"model.device={device}: torch sees no CUDA device here; model.device=cpu is allowed")
    try:
        torch.device(device)
    except RuntimeError as error:
        raise UserError(f"model.device={device}: must be cpu, cuda, cuda:<number> or auto") from error
    return device


def own_code(config: Any) -> str | None:
    """The file of Python that a model brings along, None where it brings none."""
    files = sorted(
        {str(place).partition("--")[2] or str(place) for place in (getattr(config, "auto_map", None) or {}).values()}
    )
    return f"{files[0].split('.')[0]}.py" if files else None
