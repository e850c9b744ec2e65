"""Prompts to record: from a text file, a JSONL file, or the held-out text of the built-in corpus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from traces.corpus import DOMAINS, Corpus, Document, load_corpus
from traces.errors import UserError

BUILTIN = "builtin"
BUILTIN_REQUESTS = 24
# More characters than a prompt of the longest common length needs; what is not needed is cut off as tokens.
CHARS_PER_PROMPT_TOKEN = 12


Message = tuple[str, str]
"""Role and content."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's text, or else its messages; `label` names its domain or data set, None if the file gives none.

    `passage`: the text goes on beyond what is wanted, so that cutting it loses nothing.
    """

    text: str
    label: str | None = None
    messages: tuple[Message, ...] = ()
    passage: bool = False


def read_prompts(source: str, requests: int | None, seed: int, prompt_tokens: int | None) -> tuple[Prompt, ...]:
    """The first `requests` prompts of `source`, all of them if None (24 of the built-in text).

    `builtin`: passages of held-out modules, prose and code in turn, chosen by `seed`. `*.jsonl`: one object a line,
    {"prompt": ..., "label": optional} or {"messages": [{"role": ..., "content": ...}, ...], "label": optional}, a
    dialogue. Any other file: one prompt per line, empty lines skipped.

    Raises:
        UserError: no such file, an empty file, a line that is not such an object, fewer prompts than asked for.
    """
    if requests is not None and requests < 1:
        raise UserError(f"requests={requests}: must be at least 1")
    if source == BUILTIN:
        chars = CHARS_PER_PROMPT_TOKEN * (prompt_tokens or 512)
        return builtin_prompts(load_corpus(), requests or BUILTIN_REQUESTS, seed, chars)
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"prompts={source}: no such file: must be a *.txt or *.jsonl file or `{BUILTIN}`")
    try:
        with path.open(encoding="utf-8") as file:
            numbered = [(number, line.rstrip("\n")) for number, line in enumerate(file, start=1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts={source} cannot be read as UTF-8 text: {error}") from error
    if not numbered:
        raise UserError(f"prompts={source} has no prompt: must have one per line")
    if requests is not None and len(numbered) < requests:
        raise UserError(f"requests={requests}: {source} has only {len(numbered)} prompts")
    numbered = numbered[:requests]
    if path.suffix == ".jsonl":
        return tuple(_parse_object(source, number, line) for number, line in numbered)
    return tuple(Prompt(line) for _, line in numbered)


def builtin_prompts(corpus: Corpus, requests: int, seed: int, chars: int) -> tuple[Prompt, ...]:
    """`requests` passages of about `chars` characters of held-out text, prose and code in turn, each labelled.

    Every passage starts at a paragraph; documents are taken in a shuffled order, none twice before all were used.
    """
    rng = np.random.default_rng(seed)
    pools: list[list[Document]] = []
    for domain in DOMAINS:
        documents = corpus.of("held_out", domain)
        # A passage of the wanted length, where documents are that long at all.
        long_enough = [document for document in documents if len(document.text) >= chars] or list(documents)
        pools.append([long_enough[i] for i in rng.permutation(len(long_enough))])
    prompts = []
    for request in range(requests):
        pool = pools[request % len(pools)]
        document = pool[(request // len(pools)) % len(pool)]
        prompts.append(Prompt(_passage(document.text, chars, rng), document.domain, passage=True))
    return tuple(prompts)


def _passage(text: str, chars: int, rng: np.random.Generator) -> str:
    """Text from a paragraph start on, early enough that `chars` characters follow where the text has them."""
    latest = max(1, len(text) - chars)
    paragraph = text.find("\n\n", int(rng.integers(latest)))
    start = paragraph + 2 if 0 <= paragraph <= latest else 0
    return text[start : start + chars]


def _is_unicode(text: str) -> bool:
    """JSON can write half of a surrogate pair, which is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _parse_object(source: str, number: int, line: str) -> Prompt:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f'prompts={source}, line {number}: must be JSON, {{"prompt": "..."}}') from error
    messages = entry.get("messages") if isinstance(entry, dict) else None
    if messages is not None and "prompt" in entry:
        raise UserError(f'prompts={source}, line {number}: must have "prompt" or "messages", not both')
    text = entry.get("prompt") if isinstance(entry, dict) else None
    label = entry.get("label") if isinstance(entry, dict) else None
    if messages is None and (not isinstance(text, str) or not text or not _is_unicode(text)):
        raise UserError(f'prompts={source}, line {number}: must be a JSON object with a text "prompt" or "messages"')
    if label is not None and not (isinstance(label, str) and _is_unicode(label)):
        raise UserError(f'prompts={source}, line {number}: "label" must be a text or absent')
    if messages is None:
        return Prompt(str(text), label)
    return Prompt("", label, _messages(messages, f"prompts={source}, line {number}"))


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    """A dialogue's messages, checked; the first is not an answer, and no answer follows another."""
    if not isinstance(value, list) or not value:
        raise UserError(f'{where}: "messages" must be a list of {{"role": "...", "content": "..."}}')
    messages: list[Message] = []
    for place, one in enumerate(value):
        role, content = (one.get(key) if isinstance(one, dict) else None for key in ("role", "content"))
        texts = isinstance(role, str) and isinstance(content, str)
        if not texts or not role or not _is_unicode(f"{role}{content}"):
            raise UserError(f'{where}: message {place} must have a "role" and a text "content"')
        if role == "assistant" and (place == 0 or messages[-1][0] == "assistant"):
            raise UserError(f"{where}: message {place} is an answer of the assistant that nobody asked for")
        messages.append((str(role), str(content)))
    return tuple(messages)
