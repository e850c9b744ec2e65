"""Loads a Hugging Face language model and its tokenizer; failures are `UserError`, and no request hangs."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.errors import UserError
from traces.recording.model_classes import (
    auto_class,
    check_device_map,
    check_quantised,
    own_code,
    quantisation,
    quantised_arguments,
    resolve_device,
)
from traces.recording.model_folder import check_model_folder
from traces.recording.stored_sizes import stored_tensors

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
# A name or owner/name of letters, digits and single dots and dashes inside, as the hub allows.
HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([\w.-]*\w)?(/[A-Za-z0-9_]([\w.-]*\w)?)?", re.ASCII)
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")  # never pickled weights: a file may run code
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer; `source` names the folder or hub id it came from.

    `notes`: what a reader of its traces has to know. `stored`: bytes of its tensors in the files, where these hold them
    quantised.
    """

    model: torch.nn.Module
    tokenizer: Any
    source: str
    notes: tuple[str, ...] = ()
    stored: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model is loaded: `device` cpu, cuda, cuda:N or auto (the first GPU, if any); `device_map` auto: spread over
    GPUs, memory and disk. `trust_remote_code`: Python files of the model's own are run."""

    dtype: str = "auto"
    device: str = "cpu"
    device_map: str | None = None
    trust_remote_code: bool = False


def load_model(
    path: str,
    dtype: str = "auto",
    device: str = "cpu",
    allow_download: bool = False,
    network_timeout_s: float = 1.0,
    *,
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load the model in folder `path`, or the hub id `path` from the local cache or, if allowed, from the hub.

    Raises:
        UserError: no such folder, no model or tokenizer in it, no language model, no network, unknown dtype or device,
            a package that is missing, code of the model's own that is not allowed.
    """
    if dtype not in DTYPES:
        raise UserError(f"model.dtype={dtype}: must be one of {', '.join(DTYPES)}")
    local = check_source(path, allow_download, network_timeout_s)
    if local or not allow_download:
        # Read when the library is imported; local_files_only below covers a process that imported it before.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return _load(path, Loading(dtype, device, device_map, trust_remote_code), local or not allow_download)


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


def _load(path: str, how: Loading, local_only: bool) -> LoadedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoTokenizer, logging

    device = resolve_device(how.device)
    check_device_map(how.device_map)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Unset, a terminal is asked about it; code in a folder is run only where that is asked for.
    common: dict[str, Any] = {"local_files_only": local_only, "trust_remote_code": how.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(path, **common)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.path={path}: its configuration cannot be read: {_reason(error)}") from error
    kind, method = auto_class(config, path), quantisation(config)
    if method is not None:
        check_quantised(method, path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **common)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"model.path={path}: its tokenizer cannot be loaded: {_reason(error)}") from error
    spread: dict[str, Any] = {}
    if how.device_map is not None:
        spread = {"device_map": how.device_map, "offload_folder": tempfile.mkdtemp(prefix="moe-offload-sim-")}
    try:
        model, report = kind.from_pretrained(
            path,
            config=config,
            dtype=how.dtype if how.dtype == "auto" else getattr(torch, how.dtype),
            use_safetensors=True,
            output_loading_info=True,
            **common,
            **spread,
            **quantised_arguments(method),
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"model.path={path}: the model cannot be loaded: {_reason(error)}") from error
    if spread:
        weakref.finalize(model, shutil.rmtree, spread["offload_folder"], ignore_errors=True)
    if missing := sorted(report["missing_keys"]):  # the library would fill them with random numbers
        raise UserError(f"model.path={path}: the weights lack {len(missing)} tensors, for example {missing[0]}")
    # A folder is named without the way to it, which says nothing on another machine.
    name = Path(path).expanduser().resolve().name if Path(path).expanduser().is_dir() else path
    notes = []
    if how.trust_remote_code and (file := own_code(config)) is not None:
        notes.append(f"code of the model's own ran ({file}), as model.trust_remote_code=true allows")
    stored = None
    if method is not None:
        notes.append(f"the weights are stored quantised ({method}); sizes are those of the files")
        stored = stored_tensors(_folder_of(path))
    model = model.eval() if spread or method is not None else model.to(torch.device(device)).eval()
    if not spread and method is not None and next(model.parameters()).device.type != torch.device(device).type:
        model = model.to(torch.device(device))
    return LoadedModel(model, tokenizer, name, tuple(notes), stored)


def _folder_of(path: str) -> Path:
    """Where the files of a loaded model lie."""
    if Path(path).expanduser().is_dir():
        return Path(path).expanduser()
    from huggingface_hub import try_to_load_from_cache

    return Path(str(try_to_load_from_cache(path, "config.json"))).parent


def _reason(error: Exception) -> str:
    """The first line of an error of the library; where it asks for trust, what that is called here."""
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which runs with all your rights: model.trust_remote_code=true allows it"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
