"""Prompts as tokens: what a model is given turn by turn, in which pass, and which prompts had to be cut."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traces.errors import UserError
from traces.recording.moe_probe import text_config
from traces.recording.prompts import Message, Prompt

if TYPE_CHECKING:
    from traces.recording.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens that are given at once, and the answer to them, token by token; None: the model writes it."""

    prompt: list[int]
    answer: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its turns share a context. `cut_from`: tokens of a prompt that was cut, None for a whole one."""

    turns: tuple[Turn, ...]
    cut_from: int | None = None

    @property
    def given(self) -> int:
        """Tokens that are known before the model writes any."""
        return sum(len(turn.prompt) + len(turn.answer or ()) for turn in self.turns)

    @property
    def generates(self) -> bool:
        """Whether the model writes the last answer."""
        return self.turns[-1].answer is None


def plan_requests(
    loaded: LoadedModel, prompts: tuple[Prompt, ...], prompt_tokens: int | None, max_new_tokens: int
) -> list[Request]:
    """Every prompt as a request. A text is cut to `prompt_tokens` (None: whole); a dialogue never is.

    Raises: UserError for a prompt without tokens, one that does not fit the model's context with `max_new_tokens`, a
        dialogue that the tokenizer has no template for, or whose template rewrites earlier turns.
    """
    planned = []
    for number, prompt in enumerate(prompts):
        request = (
            _dialogue(loaded, prompt.messages, number) if prompt.messages else _text(loaded, prompt, prompt_tokens)
        )
        if not request.turns[0].prompt:
            raise UserError(f"Prompt {number} has no tokens: must be a text")
        new = max_new_tokens if request.generates else 0
        limit = getattr(text_config(loaded.model), "max_position_embeddings", None)
        if isinstance(limit, int) and request.given + new > limit:
            raise UserError(
                f"Prompt {number} has {request.given} tokens and max_new_tokens={new}, but this model's context is "
                f"{limit} tokens; lower prompt_tokens or max_new_tokens"
            )
        planned.append(request)
    return planned


def findings(loaded: LoadedModel, prompts: tuple[Prompt, ...], requests: list[Request]) -> dict[str, Any]:
    """What the provenance says of cut prompts and of the chat template."""
    said: dict[str, Any] = {}
    cut = [request.cut_from for request in requests if request.cut_from is not None]
    if cut:
        said["prompts_cut"] = {"prompts": len(cut), "longest": max(cut)}
    if any(prompt.messages for prompt in prompts):
        template = hashlib.sha256(str(loaded.tokenizer.chat_template).encode()).hexdigest()
        said["chat_template"] = (
            f"the tokenizer's (sha256 {template}); answers that the dialogues give are decoded as given"
        )
    return said


def _text(loaded: LoadedModel, prompt: Prompt, prompt_tokens: int | None) -> Request:
    tokens: list[int] = loaded.tokenizer(prompt.text)["input_ids"]
    kept = tokens[:prompt_tokens]
    return Request((Turn(kept),), None if prompt.passage or len(kept) == len(tokens) else len(tokens))


def _dialogue(loaded: LoadedModel, messages: tuple[Message, ...], number: int) -> Request:
    """The turns of a dialogue: all up to an answer is one prompt, its answer follows, and so on.

    Answers are what the template adds to the text that asks for them, so that their closing marks are decoded too.
    """
    turns: list[Turn] = []
    known: list[int] = []

    def go_on(messages: tuple[Message, ...], asking: bool) -> list[int]:
        """What the messages add to all tokens before."""
        nonlocal known
        tokens = _templated(loaded, messages, asking)
        if tokens[: len(known)] != known:
            raise UserError(
                f"Prompt {number}: this model's chat template changes what came before message {len(messages) - 1}, so "
                "that no turn follows from the one before; give each turn as a prompt of its own"
            )
        added, known = tokens[len(known) :], tokens
        return added

    for place, (role, _) in enumerate(messages):
        if role == "assistant":
            prompt = go_on(messages[:place], True)
            turns.append(Turn(prompt, go_on(messages[: place + 1], False)))
    if messages[-1][0] != "assistant":
        turns.append(Turn(go_on(messages, True)))
    if not all(turn.prompt for turn in turns):
        raise UserError(f"Prompt {number}: a turn of its dialogue has no tokens in this model's chat template")
    return Request(tuple(turns))


def _templated(loaded: LoadedModel, messages: tuple[Message, ...], asking: bool) -> list[int]:
    """Tokens of messages in the tokenizer's own template; `asking`: with what begins an answer."""
    if not getattr(loaded.tokenizer, "chat_template", None):
        raise UserError(
            f"{loaded.source} has no chat template in its tokenizer, and messages need one: give prompts as text"
        )
    told = [{"role": role, "content": content} for role, content in messages]
    try:
        text = loaded.tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=asking)
    except Exception as error:  # templates raise what they like
        raise UserError(f"{loaded.source}: its chat template refuses the messages: {error}") from error
    tokens: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens
