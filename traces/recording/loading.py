"""Loads a Hugging Face causal language model and its tokenizer; failures are `UserError`, and no request hangs."""

from __future__ import annotations

import os
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.errors import UserError
from traces.recording.model_folder import check_model_folder

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
# A name or owner/name of letters, digits and single dots and dashes inside, as the hub allows.
HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([\w.-]*\w)?(/[A-Za-z0-9_]([\w.-]*\w)?)?", re.ASCII)
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")  # never pickled weights: a file may run code
SAFE: dict[str, Any] = {"trust_remote_code": False}  # code in a folder is refused; unset, a terminal is asked about it
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer; `source` names the folder or hub id it came from."""

    model: torch.nn.Module
    tokenizer: Any
    source: str


def load_model(
    path: str, dtype: str = "auto", device: str = "cpu", allow_download: bool = False, network_timeout_s: float = 1.0
) -> LoadedModel:
    """Load the model in folder `path`, or the hub id `path` from the local cache or, if allowed, from the hub.

    Raises:
        UserError: no such folder, no model or tokenizer in it, no causal language model, no network, unknown dtype.
    """
    if dtype not in DTYPES:
        raise UserError(f"model.dtype={dtype}: must be one of {', '.join(DTYPES)}")
    local = check_source(path, allow_download, network_timeout_s)
    if local or not allow_download:
        # Read when the library is imported; local_files_only below covers a process that imported it before.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return _load(path, dtype, device, local_only=local or not allow_download)


def check_source(path: str, allow_download: bool, network_timeout_s: float) -> bool:
    """Whether `path` is a model's folder; False if it is a hub id that can be loaded; imports no torch.

    Raises: UserError if it is neither.
    """
    local = _check_folder(path)
    if not local:
        _check_hub(path, allow_download, network_timeout_s)
    return local


def _check_folder(path: str) -> bool:
    """Whether `path` is a folder with everything a model needs; False if it can only be a hub id."""
    folder = Path(path).expanduser()
    if folder.is_file():
        raise UserError(f"model.path={path} is a file: must be a folder written by save_pretrained or a hub id")
    if not folder.is_dir():
        return False
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path={path}: the folder has no config.json, so it holds no Hugging Face model")
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_PATTERNS):
        raise UserError(
            f"model.path={path}: the folder has a config.json but no weights as *.safetensors; pickled weights "
            "(*.bin, *.pt) are not loaded"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"model.path={path}: the folder has no tokenizer (tokenizer.json and tokenizer_config.json)")
    check_model_folder(folder, f"model.path={path}")
    return True


def _check_hub(path: str, allow_download: bool, timeout_s: float) -> None:
    if len(path) > 96 or not HUB_ID.fullmatch(path):
        raise UserError(f"model.path={path}: this folder does not exist")
    if allow_download:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        if not reachable(endpoint, timeout_s):
            raise UserError(
                f"model.path={path} is not a folder here, and {endpoint} could not be reached within {timeout_s:g} s, "
                "so it cannot be downloaded"
            )
    elif not _in_cache(path):
        raise UserError(
            f"model.path={path} is neither a folder nor a model in the local Hugging Face cache; "
            "model.allow_download=true lets it be downloaded"
        )


def _in_cache(path: str) -> bool:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(path, "config.json")
    if not isinstance(config, str):
        return False
    check_model_folder(Path(config).parent, f"model.path={path}")
    return True


def reachable(url: str, timeout_s: float) -> bool:
    """Whether `url` gives any HTTP answer within `timeout_s`.

    In a thread of its own: neither name resolution nor a server that accepts and stays silent obeys a timeout here.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s).close()
            answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answered.is_set()


def _load(path: str, dtype: str, device: str, local_only: bool) -> LoadedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, logging

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"model.device={device}: torch sees no CUDA device here; model.device=cpu is allowed")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=local_only, **SAFE)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.path={path}: its configuration cannot be read: {_first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model.path={path}: {config.model_type} is an encoder-decoder model and cannot be hooked: must be "
            "a causal language model"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=local_only, **SAFE)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"model.path={path}: its tokenizer cannot be loaded: {_first_line(error)}") from error
    try:
        loading: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            local_files_only=local_only,
            use_safetensors=True,
            output_loading_info=True,
            **SAFE,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"model.path={path}: the model cannot be loaded: {_first_line(error)}") from error
    model, report = loading
    if missing := sorted(report["missing_keys"]):  # the library would fill them with random numbers
        raise UserError(f"model.path={path}: the weights lack {len(missing)} tensors, for example {missing[0]}")
    # A folder is named without the way to it, which says nothing on another machine.
    name = Path(path).expanduser().resolve().name if Path(path).expanduser().is_dir() else path
    return LoadedModel(model.to(torch.device(device)).eval(), tokenizer, name)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
