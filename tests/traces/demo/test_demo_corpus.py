"""The built-in corpus: held-out modules are whole, kept apart from training text, and the same every time."""

import pytest

from traces.corpus import (
    DOMAINS,
    Corpus,
    Document,
    corpus_digest,
    is_held_out,
    load_corpus,
    paragraphs,
    split_documents,
)
from traces.errors import UserError
from traces.recording.prompts import builtin_prompts


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.mark.slow
def test_no_module_and_no_paragraph_is_on_both_sides(corpus: Corpus) -> None:
    train = {document.module for document in corpus.train}
    held_out = {document.module for document in corpus.held_out}
    assert not train & held_out
    assert all(map(is_held_out, held_out)) and not any(map(is_held_out, train))
    trained = {paragraph for document in corpus.train for paragraph in paragraphs(document.text)}
    kept_apart = {paragraph for document in corpus.held_out for paragraph in paragraphs(document.text)}
    assert len(kept_apart) > 1000 and not trained & kept_apart


@pytest.mark.slow
def test_both_domains_are_large_enough(corpus: Corpus) -> None:
    for domain in DOMAINS:
        assert sum(len(document.text) for document in corpus.of("train", domain)) > 500_000
        assert sum(len(document.text) for document in corpus.of("held_out", domain)) > 50_000
        assert len(corpus.of("held_out", domain)) >= 12


def test_code_has_no_docstrings_and_prose_has_them(corpus: Corpus) -> None:
    texts = {(document.module, document.domain): document.text for document in (*corpus.train, *corpus.held_out)}
    sentence = "A generator for dividing a sequence of chars into words"
    import shlex

    doc = (shlex.split.__doc__ or "").strip()
    assert doc in texts["shlex", "prose"] and doc not in texts["shlex", "code"], sentence


@pytest.mark.slow
def test_the_corpus_is_the_same_every_time(corpus: Corpus) -> None:
    assert corpus_digest(load_corpus()) == corpus_digest(corpus)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(UserError, match="carries only 0 characters of prose"):
        split_documents([Document("a", "code", "x = 1\n" * 100_000)])


def test_builtin_prompts_are_held_out_passages_in_turn(corpus: Corpus) -> None:
    prompts = builtin_prompts(corpus, 24, seed=0, chars=1536)
    assert [prompt.label for prompt in prompts] == ["prose", "code"] * 12
    assert prompts == builtin_prompts(corpus, 24, seed=0, chars=1536) != builtin_prompts(corpus, 24, seed=1, chars=1536)
    assert len({prompt.text for prompt in prompts}) == 24
    for prompt in prompts:
        assert any(prompt.text in document.text for document in corpus.held_out if document.domain == prompt.label)
