"""Text that every Python installation carries: standard-library prose and code, with whole modules held out.

Prose is the language reference of ``pydoc_data.topics``, text files beside modules and the docstrings of each module;
code is the module source without its docstrings. A module is held out, prose and code together, by a hash of its name;
training text then loses every paragraph that a held-out document also has, since reference topics quote each other.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from traces.errors import UserError

Domain = Literal["prose", "code"]
DOMAINS: tuple[Domain, ...] = ("prose", "code")
HELD_OUT_ONE_IN = 8
MIN_DOCUMENT_CHARS = 400
MAX_DOCUMENT_CHARS = 200_000
MIN_PARAGRAPH_CHARS = 40
MIN_TRAINING_CHARS = 200_000

# Folders that distributions strip, that others install into, or whose files are tables rather than text.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "tkinter", "turtledemo", "lib2to3"}
    | {"ensurepip", "encodings", "pydoc_data", "lib-dynload", "__pycache__", "__phello__"}
)


@dataclass(frozen=True, slots=True)
class Document:
    """One text of one domain; `module` names what it was taken from and decides the split."""

    module: str
    domain: Domain
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents to train on and documents never trained on, both ordered by domain and module."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]

    def of(self, split: Literal["train", "held_out"], domain: Domain) -> tuple[Document, ...]:
        """The documents of one split and domain."""
        documents = self.train if split == "train" else self.held_out
        return tuple(document for document in documents if document.domain == domain)


def load_corpus() -> Corpus:
    """Read, split and clean the corpus of the running Python.

    Raises:
        UserError: this Python carries too little source text (for example a zipped standard library).
    """
    return split_documents(_standard_library_documents())


def split_documents(documents: Iterable[Document]) -> Corpus:
    """Split whole modules by a hash of their name and take paragraphs of held-out text out of the training text."""
    ordered = sorted(documents, key=lambda document: (document.domain, document.module))
    held_out = tuple(document for document in ordered if is_held_out(document.module))
    forbidden = {paragraph for document in held_out for paragraph in paragraphs(document.text)}
    cleaned = (_without(document, forbidden) for document in ordered if not is_held_out(document.module))
    train = tuple(document for document in cleaned if len(document.text) >= MIN_DOCUMENT_CHARS)
    for domain in DOMAINS:
        chars = sum(len(document.text) for document in train if document.domain == domain)
        if chars < MIN_TRAINING_CHARS:
            raise UserError(
                f"The demo model is trained on the standard library's own text, but this Python carries only {chars} "
                f"characters of {domain}: must be at least {MIN_TRAINING_CHARS}"
            )
    return Corpus(train, held_out)


def is_held_out(module: str) -> bool:
    """Whether this module belongs to the held-out text: one in eight, by the SHA-256 of its name."""
    return hashlib.sha256(module.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def paragraphs(text: str) -> Iterator[str]:
    """Blocks between blank lines with white space collapsed, short ones left out: too common to mean a quotation."""
    for block in text.split("\n\n"):
        collapsed = " ".join(block.split())
        if len(collapsed) >= MIN_PARAGRAPH_CHARS:
            yield collapsed


def corpus_digest(corpus: Corpus) -> str:
    """SHA-256 over every document, in order: two machines with one digest train on the same text."""
    digest = hashlib.sha256()
    for split, documents in (("train", corpus.train), ("held_out", corpus.held_out)):
        for document in documents:
            digest.update(f"{split}\0{document.domain}\0{document.module}\0{document.text}\0".encode())
    return digest.hexdigest()


def _without(document: Document, forbidden: set[str]) -> Document:
    kept = [block for block in document.text.split("\n\n") if " ".join(block.split()) not in forbidden]
    return Document(document.module, document.domain, "\n\n".join(kept))


def _standard_library_documents() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for relative in sorted(_text_files(root)):
        text = (root / relative).read_text(encoding="utf-8", errors="replace")
        if relative.suffix == ".py":
            yield from _module_documents(relative.with_suffix("").as_posix().replace("/", "."), text)
        else:
            yield from _sized(relative.as_posix(), "prose", text)
    yield from _reference_topics()


def _text_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        # In place, so that the walk never enters site-packages.
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith("config-")]
        for name in names:
            if name.endswith((".py", ".txt", ".rst")) and not name.startswith(("_sysconfigdata", "turtle")):
                yield (Path(folder) / name).relative_to(root)


def _reference_topics() -> Iterator[Document]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions leave the reference out; docstrings remain
        return
    for name, text in topics.items():
        yield from _sized(f"reference:{name}", "prose", text)


def _module_documents(module: str, source: str) -> Iterator[Document]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.splitlines()
    docstrings: list[str] = []
    for owner in ast.walk(tree):
        if not isinstance(owner, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(owner)
        if docstring is None:
            continue
        docstrings.append(docstring)
        expression = owner.body[0]
        for line in range(expression.lineno - 1, expression.end_lineno or expression.lineno):
            lines[line] = ""
    yield from _sized(module, "prose", "\n\n".join(docstrings))
    yield from _sized(module, "code", "\n".join(lines))


def _sized(module: str, domain: Domain, text: str) -> Iterator[Document]:
    text = text.replace("\r\n", "\n").strip() + "\n"
    if len(text) >= MIN_DOCUMENT_CHARS:
        yield Document(module, domain, text[:MAX_DOCUMENT_CHARS])
