"""Held-out text cut into windows of tokens: what quality is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.corpus import DOMAINS, load_corpus
from traces.errors import UserError
from traces.recording.prompts import BUILTIN, read_prompts


@dataclass(frozen=True, slots=True)
class Windows:
    """N windows of S tokens; ``documents`` and ``domains`` [N] name the text and its kind; whole documents are drawn
    again in intervals."""

    tokens: NDArray[np.int64]
    documents: tuple[str, ...]
    domains: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.documents)

    def part(self, start: int, stop: int) -> Windows:
        """Windows from start to stop."""
        return Windows(self.tokens[start:stop], self.documents[start:stop], self.domains[start:stop])

    def digest(self) -> str:
        """SHA-256 over tokens and names."""
        names = "\0".join((*self.documents, *self.domains)).encode()
        return hashlib.sha256(self.tokens.tobytes() + names).hexdigest()


@dataclass(frozen=True, slots=True)
class Text:
    """One document as token ids."""

    name: str
    domain: str
    ids: list[int]


def make_windows(source: str, tokenizer: Any, count: int, tokens: int, seed: int) -> Windows:
    """``count`` windows of ``tokens`` tokens: of ``builtin`` held-out text, domains in turn, or of a file of prompts.

    Documents are shuffled by ``seed``; each gives one window before any gives its second. Shorter ones are left out.

    Raises: UserError where the text does not hold so many windows.
    """
    texts = list(_builtin(tokenizer)) if source == BUILTIN else list(_prompts(source, tokenizer))
    domains = list(dict.fromkeys(text.domain for text in texts))
    pools = [_cut([text for text in texts if text.domain == domain], tokens, seed) for domain in domains]
    windows: list[tuple[list[int], str, str]] = []
    for turn in range(max((len(pool) for pool in pools), default=0)):
        windows += [pool[turn] for pool in pools if turn < len(pool)]
    if len(windows) < count:
        raise UserError(
            f"windows={count}: {source} holds {len(windows)} windows of {tokens} tokens in {len(texts)} documents; "
            "lower windows, fit_windows or tokens"
        )
    ids, documents, kinds = zip(*windows[:count], strict=True)
    return Windows(np.asarray(ids, np.int64), documents, kinds)


def _cut(texts: list[Text], tokens: int, seed: int) -> list[tuple[list[int], str, str]]:
    """Windows of some documents, in turn."""
    order = np.random.default_rng(seed).permutation(len(texts))
    shuffled = [texts[i] for i in order if len(texts[i].ids) >= tokens]
    windows = []
    for turn in range(max((len(text.ids) // tokens for text in shuffled), default=0)):
        start, stop = turn * tokens, (turn + 1) * tokens
        windows += [(text.ids[start:stop], text.name, text.domain) for text in shuffled if stop <= len(text.ids)]
    return windows


def _builtin(tokenizer: Any) -> Iterator[Text]:
    corpus = load_corpus()
    for domain in DOMAINS:
        for document in corpus.of("held_out", domain):
            yield Text(document.module, domain, tokenizer(document.text)["input_ids"])


def _prompts(source: str, tokenizer: Any) -> Iterator[Text]:
    for number, prompt in enumerate(read_prompts(source, None, 0, None)):
        yield Text(f"prompt {number}", prompt.label or "text", tokenizer(prompt.text)["input_ids"])
