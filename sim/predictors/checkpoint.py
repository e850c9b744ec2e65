"""A trained predictor on disk: one safetensors file, weights and a record of how they came about; never pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Prediction
from policies.prediction.trained import TrainedPrediction
from sim.predictors.inputs import Inputs, Shape
from sim.predictors.settings import Settings, network_settings
from traces.errors import UserError
from traces.format.header import check_header
from traces.whole_file import write_whole
from traces.whole_input import parse_json

VERSION = 1
ENTRY = "predictor"
"""The one entry of the file's metadata, JSON: several would be written in changing order."""
VOCABULARY = "vocabulary"
EMBEDDED = "embedded"
"""The name of the predictors that come with the package, one of each kind, trained on the embedded trace."""
DATA = Path(__file__).parent / "data"
TRAINING_KEYS = ("trace_hash", "num_requests", "train", "validation", "test", "fingerprints", "metrics")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a forecast needs, and where it comes from.

    ``training``: trace_hash (content hash of the trace file), num_requests, the numbers of its requests under train,
    validation and test, the fingerprints of the first two, metrics on the test requests, and more for the reader.
    """

    kind: str
    settings: Settings
    shape: Shape
    inputs: Inputs
    vocabulary: NDArray[np.int64]
    weights: dict[str, NDArray[Any]]
    training: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write all or nothing: beside the target first, then renamed. Same content, same bytes.

    Raises: UserError if the file cannot be written.
    """
    from safetensors.numpy import save

    record = {
        "version": VERSION,
        "kind": checkpoint.kind,
        "settings": asdict(checkpoint.settings),
        "shape": asdict(checkpoint.shape),
        "inputs": asdict(checkpoint.inputs),
        "training": checkpoint.training,
        "content_hash": hash_weights(checkpoint.weights, checkpoint.vocabulary),
    }
    tensors = {f"weights.{name}": value for name, value in checkpoint.weights.items()}
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    content = save({**tensors, VOCABULARY: checkpoint.vocabulary}, metadata={ENTRY: text})
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"out={path}: cannot be written: {error.strerror or error}") from error


def locate_checkpoint(name: str, kind: str) -> Path:
    """The file of the checkpoint ``name``; of the embedded ones, that of ``kind``."""
    return DATA / f"{kind}.safetensors" if name == EMBEDDED else Path(name)


def require_trained(part: Prediction) -> TrainedPrediction:
    """The part itself. Raises: UserError where it is none that a network predicts for."""
    if not isinstance(part, TrainedPrediction):
        needed = f"{TrainedPrediction.__module__}.{TrainedPrediction.__name__}"
        raise UserError(f"{type(part).__name__} needs a forecast: must be a {needed}")
    return part


def checkpoint_of(part: TrainedPrediction) -> Checkpoint:
    """The predictor that a policy's prediction names by ``checkpoint``.

    Raises: UserError where it names none, or a file that is missing, damaged or no predictor.
    """
    if not part.checkpoint:
        raise UserError(f"policy.prediction.checkpoint is not set: train a predictor with {HOW} and name its file")
    return read_checkpoint(locate_checkpoint(part.checkpoint, part.kind))


def read_checkpoint(path: Path) -> Checkpoint:
    """The predictor in file ``path``.

    Raises: UserError naming the file where it is missing, damaged or no predictor.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"policy.prediction.checkpoint={path}: no such file; train one with {HOW}")
    try:
        check_header(path)
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(ENTRY)
            if text is None:
                raise UserError(f"policy.prediction.checkpoint={path}: is not a predictor; train one with {HOW}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return _checkpoint(parse_json(text.encode(), "the record"), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"policy.prediction.checkpoint={path}: cannot be read as a predictor: {error}") from error


def hash_weights(weights: dict[str, NDArray[Any]], vocabulary: NDArray[np.int64]) -> str:
    """sha256 over the numbers of a predictor."""
    digest = hashlib.sha256()
    for name, array in sorted({**weights, "": vocabulary}.items()):
        digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


HOW = "`python -m sim train-predictor`"


def _checkpoint(record: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Checkpoint:
    if record["version"] != VERSION:
        raise ValueError(f"version {record['version']} is unknown, this program reads version {VERSION}")
    kind, settings = network_settings({"kind": record["kind"], **record["settings"]})
    training = record["training"]
    if absent := [key for key in TRAINING_KEYS if key not in training]:
        raise ValueError(f"the record of its training lacks {absent[0]}")
    vocabulary = tensors.pop(VOCABULARY)
    weights = {name.removeprefix("weights."): value for name, value in tensors.items()}
    if record.get("content_hash", "") not in ("", hash_weights(weights, vocabulary)):
        raise ValueError("its content does not have the hash that is stored, so it was changed after it was written")
    shape, inputs = Shape(**record["shape"]), Inputs(**record["inputs"])
    return Checkpoint(kind, settings, shape, inputs, vocabulary, weights, training)
