"""Keeps trained demo models in the user's cache folder, so that each is trained once on a machine.

The recipe `demo` with seed 0 needs no training: the package ships it (`shipped.py`).
A training writes into `<model>.unfinished`, which survives a kill and is continued; the folder gets its name when it is
complete. Of two processes that ask for one model, the second waits for the first.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from traces.corpus import Corpus, corpus_digest, load_corpus
from traces.demo.recipe import Recipe
from traces.demo.shipped import is_shipped, shipped_model
from traces.errors import UserError
from traces.torch_threads import single_thread
from traces.user_cache import cache_root
from traces.whole_file import flush_to_disk, write_whole
from traces.whole_input import read_json_value

CHECKPOINT_FILE = "checkpoint.safetensors"
SUMMARY_FILE = "training.json"


def demo_model(recipe: Recipe, corpus: Corpus | None = None, train: bool = False) -> Path:
    """Folder of the model of `recipe`: the shipped one, else one trained on this machine, now if it never was.

    `train`, or a `corpus`: never the shipped one.

    Raises:
        UserError: the cache folder cannot be written, or an unfinished training in it cannot be continued; the shipped
            weights were changed.
    """
    if corpus is None and not train and is_shipped(recipe):
        return shipped_model()
    folder = cache_root() / f"{recipe.name}-{recipe.key}"
    if (folder / SUMMARY_FILE).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(f"{folder.name}.lock")):
            if not (folder / SUMMARY_FILE).is_file():
                _train_into(folder, recipe, corpus or load_corpus())
    except OSError as error:
        raise UserError(
            f"The demo model cannot be kept in {folder.parent} ({error.strerror or error}); "
            "the environment variable MOE_SIM_CACHE names another folder"
        ) from error
    return folder


def _lock(path: Path) -> Any:
    """An acquired lock, to be left with `with`; says so where it has to wait."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print("another process is training this model; waiting for it", file=sys.stderr)
        return lock.acquire()


def training_summary(folder: Path) -> dict[str, Any]:
    """What was noted when the model in `folder` was finished: recipe, seed, steps, final loss, hash of the corpus.

    Raises:
        UserError: the note is damaged.
    """
    path = folder / SUMMARY_FILE
    try:
        summary = read_json_value(path, "the note")
    except UserError as error:
        raise UserError(f"{path} cannot be read ({error}); delete its folder to train the model again") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("corpus_sha256"), str):
        raise UserError(f"{path} is not what a training writes; delete its folder to train the model again")
    return summary


def _train_into(folder: Path, recipe: Recipe, corpus: Corpus) -> None:
    """Train in `<folder>.unfinished`, and rename it when everything is written."""
    from traces.demo.train import fit_tokenizer, train, training_streams

    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    with single_thread():
        tokenizer = fit_tokenizer(recipe, corpus)
        streams = training_streams(corpus, tokenizer)
        checkpoint = unfinished / CHECKPOINT_FILE
        model, summary = train(recipe, streams, checkpoint)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    summary["corpus_sha256"] = corpus_digest(corpus)
    write_whole(unfinished / SUMMARY_FILE, json.dumps(summary, indent=1).encode())
    checkpoint.unlink(missing_ok=True)
    for path in unfinished.iterdir():
        flush_to_disk(path)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
