"""Prompts as messages: the tokenizer's template, turn by turn as one request; prompts that are cut say so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_models import build, byte_tokenizer
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.recording.loading import LoadedModel
from traces.recording.prompts import Prompt, read_prompts
from traces.recording.recorder import RecordOptions, record

TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% if m.role == 'assistant' %}.{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
DIALOGUE = (("user", "hi"), ("assistant", "yo"), ("user", "again"))
OPTIONS = RecordOptions(max_new_tokens=4, half_precision=False, lookahead_extra=None, ignore_eos=True)


def chatty(template: str | None = TEMPLATE) -> LoadedModel:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return LoadedModel(build("olmoe"), tokenizer, "olmoe")


def test_turns_are_one_request_that_alternates(tmp_path: Path) -> None:
    loaded = chatty()
    trace = record(loaded, (Prompt("", "chat", DIALOGUE),), OPTIONS, progress=False)
    write_trace(tmp_path / "t.safetensors", trace)
    trace = read_trace(tmp_path / "t.safetensors")
    given = loaded.tokenizer("<u>hi<a>yo.<u>again<a>")["input_ids"]
    assert trace.token_ids is not None and trace.token_ids[: len(given)].tolist() == given
    #                                    <u>hi<a>   yo.       <u>again<a>  three of the four that are written
    assert trace.phase.tolist() == [0] * 8 + [1] * 3 + [0] * 11 + [1] * 3
    assert trace.prompt_len.tolist() == [8] and trace.positions().tolist() == list(range(25))
    assert trace.provenance["chat_template"].startswith("the tokenizer's (sha256 ")
    with torch.no_grad():  # the context goes on over turns: one pass over all tokens routes alike
        logits = loaded.model(
            input_ids=torch.tensor([trace.token_ids.tolist()]), output_router_logits=True
        ).router_logits
    assert trace.router_logits is not None
    np.testing.assert_allclose(trace.router_logits.values, torch.stack(logits, dim=1), atol=1e-4)


def test_a_dialogue_that_ends_with_an_answer_is_decoded_as_given() -> None:
    trace = record(chatty(), (Prompt("", None, DIALOGUE[:2]),), OPTIONS, progress=False)
    assert trace.phase.tolist() == [0] * 8 + [1] * 2  # the last token is never fed back


def test_teacher_forcing_is_one_pass_over_the_dialogue() -> None:
    options = RecordOptions(mode="teacher_forced")
    trace = record(chatty(), (Prompt("", None, DIALOGUE),), options, progress=False)
    assert trace.phase.tolist() == [0] * 22 and trace.prompt_len.tolist() == [22]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, "has no chat template in its tokenizer"),
        (
            "{{ messages | length }}" + TEMPLATE,
            "Prompt 0: this model's chat template changes what came before message 1",
        ),
        ("{{ raise_exception('no system here') }}", "its chat template refuses the messages: no system here"),
    ],
)
def test_templates_that_cannot_be_used(template: str | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        record(chatty(template), (Prompt("", None, DIALOGUE),), OPTIONS, progress=False)


def test_dialogues_are_never_cut_and_have_to_fit() -> None:
    long = (("user", "x" * 200),)
    with pytest.raises(
        UserError, match=r"Prompt 0 has 206 tokens and max_new_tokens=4, but this model's context is 128"
    ):
        record(chatty(), (Prompt("", None, long),), OPTIONS, progress=False)


def test_cut_prompts_are_said_and_whole_ones_are_not() -> None:
    prompts = (Prompt("short"), Prompt("a long one"), Prompt("the longest of all"), Prompt("goes on", passage=True))
    options = RecordOptions(max_new_tokens=1, prompt_tokens=6)
    assert record(chatty(), prompts, options, progress=False).provenance["prompts_cut"] == {"prompts": 2, "longest": 18}
    assert "prompts_cut" not in record(chatty(), prompts[:1], options, progress=False).provenance


def test_files_of_messages(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"

    def read(value: Any) -> tuple[Prompt, ...]:
        file.write_text(json.dumps(value) + "\n")
        return read_prompts(str(file), None, 0, None)

    messages = [{"role": role, "content": content} for role, content in DIALOGUE]
    assert read({"messages": messages, "label": "chat"}) == (Prompt("", "chat", DIALOGUE),)
    for value, sentence in (
        ({"messages": []}, '"messages" must be a list of'),
        ({"messages": "hi"}, '"messages" must be a list of'),
        ({"messages": messages, "prompt": "x"}, 'must have "prompt" or "messages", not both'),
        ({"messages": [{"role": "user"}]}, 'message 0 must have a "role" and a text "content"'),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "message 0 must have"),
        ({"messages": messages[1:]}, "message 0 is an answer of the assistant that nobody asked for"),
        ({"messages": [*messages[:2], messages[1]]}, "message 2 is an answer"),
    ):
        with pytest.raises(UserError, match=sentence):
            read(value)
