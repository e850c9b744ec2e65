"""Results of finished windows on disk, from which an interrupted evaluation resumes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.user_cache import cache_root
from traces.whole_file import write_whole

REVISION = 1
"""Raised when the meaning of stored numbers changes."""
Arrays = dict[str, NDArray[Any]]


class Store:
    """One file per finished task, in a folder named by a hash of everything that decides its result; None: no store."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def named(cls, facts: dict[str, Any]) -> Store:
        """The store of an evaluation in the user's cache folder."""
        text = json.dumps({"revision": REVISION, **facts}, sort_keys=True, default=str)
        return cls(cache_root() / "quality" / hashlib.sha256(text.encode()).hexdigest()[:16])

    def get(self, task: str) -> Arrays | None:
        """Results of a task; None if it has not finished."""
        if self.folder is None or not (self.folder / f"{task}.npz").is_file():
            return None
        with np.load(self.folder / f"{task}.npz", allow_pickle=False) as file:
            return dict(file)

    def put(self, task: str, arrays: Arrays) -> None:
        """Write the results of a task, atomically."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_whole(self.folder / f"{task}.npz", buffer.getvalue())

    def clear(self) -> None:
        """Delete everything; called when the evaluation is complete."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def model_digest(model: Any) -> str:
    """SHA-256 over names, shapes and the first values of every parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        first = parameter.detach().reshape(-1)[:64].float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + first.tobytes())
    return digest.hexdigest()
