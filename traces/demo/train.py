"""Trains the demo model on the built-in corpus; a killed training continues where it was.

Callers run it on one thread (`traces.torch_threads`), so that the same seed gives the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.corpus import DOMAINS, Corpus
from traces.demo.checkpoint import load_checkpoint, save_checkpoint
from traces.demo.losses import balance_loss, distinct_tokens, gate_slope, noisy_choice, pooled_balance_loss
from traces.demo.recipe import Recipe, model_config
from traces.demo.tokenizer import END_OF_TEXT_ID, train_tokenizer
from traces.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import OlmoeForCausalLM, PreTrainedTokenizerFast

CHECKPOINT_EVERY = 20
TOKENIZER_CHARS_PER_DOMAIN = 1_500_000


def fit_tokenizer(recipe: Recipe, corpus: Corpus) -> PreTrainedTokenizerFast:
    """Tokenizer on an equal share of prose and code of the training text."""
    texts: list[str] = []
    for domain in DOMAINS:
        left = TOKENIZER_CHARS_PER_DOMAIN
        for document in corpus.of("train", domain):
            texts.append(document.text[:left])
            left -= len(texts[-1])
            if left <= 0:
                break
    return train_tokenizer(texts, recipe.vocab_size)


def training_streams(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> list[torch.Tensor]:
    """One long int64 token stream per domain, documents closed by the end-of-text token."""
    import torch

    streams = []
    for domain in DOMAINS:
        ids: list[int] = []
        for document in corpus.of("train", domain):
            ids.extend(tokenizer.backend_tokenizer.encode(document.text).ids)
            ids.append(END_OF_TEXT_ID)
        streams.append(torch.tensor(ids, dtype=torch.int64))
    return streams


def train(
    recipe: Recipe,
    streams: list[torch.Tensor],
    checkpoint: Path,
    stop_after: int | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[OlmoeForCausalLM, dict[str, Any]]:
    """Train, continuing from `checkpoint` if it can be read; returns the model and a summary.

    `stop_after` ends early with a checkpoint written (a test's way to be killed).
    """
    import torch
    from tqdm import tqdm
    from transformers import OlmoeForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = OlmoeForCausalLM(model_config(recipe))
    # All experts in one call: one by one, each step backward fills a gradient of all experts for every single one.
    model.set_experts_implementation("grouped_mm")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    done, losses = _continue_from(checkpoint, model, optimizer)
    model.train()
    started = time.perf_counter()
    last = min(recipe.steps, stop_after) if stop_after is not None else recipe.steps
    progress = tqdm(total=recipe.steps, initial=done, desc=f"training {recipe.name} once", unit="step", mininterval=1.0)
    noise = torch.Generator()
    with router_outputs(model) as routed, router_noise(model, recipe, noise), progress:
        for step in range(done, last):
            noise.manual_seed(recipe.seed * 1_000_003 + step)
            parts = _train_step(recipe, step, model, optimizer, routed, streams)
            losses.append(parts["loss"])
            progress.update()
            progress.set_postfix({name: f"{value:.2f}" for name, value in parts.items()}, refresh=False)
            if on_step is not None:
                on_step(step, parts)
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == last:
                save_checkpoint(checkpoint, step + 1, model, optimizer, losses)
    summary = _summarize(recipe, losses) | {"last_run_s": time.perf_counter() - started, "torch": torch.__version__}
    return model.eval(), summary  # type: ignore[no-untyped-call]


def _summarize(recipe: Recipe, losses: list[float]) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "statement": recipe.statement,
        "steps": len(losses),
        "final_loss": sum(losses[-20:]) / max(len(losses[-20:]), 1),
    }


def _continue_from(
    checkpoint: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[float]]:
    from safetensors import SafetensorError

    if not checkpoint.is_file():
        return 0, []
    try:
        return load_checkpoint(checkpoint, model, optimizer)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The unfinished training in {checkpoint} cannot be continued ({error}); delete it") from error


def _train_step(
    recipe: Recipe,
    step: int,
    model: OlmoeForCausalLM,
    optimizer: torch.optim.Optimizer,
    routed: list[tuple[torch.Tensor, torch.Tensor]],
    streams: list[torch.Tensor],
) -> dict[str, float]:
    import torch

    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step)
    batch = draw_batch(recipe, step, streams)
    routed.clear()
    language = model(input_ids=batch, labels=batch, use_cache=False).loss
    if recipe.balance_pooled:
        balance = pooled_balance_loss(routed)
    else:
        balance = torch.stack([balance_loss(logits, ids) for logits, ids in routed]).mean()
    slopes = torch.stack([gate_slope(logits, recipe.top_k) for logits, _ in routed])
    slope_penalty = (slopes - recipe.slope_target).square().mean()
    loss = language + recipe.balance_weight * balance + recipe.slope_weight * slope_penalty
    if recipe.distinct_weight:
        tokens = batch.flatten()
        distinct = torch.stack([distinct_tokens(logits, tokens) for logits, _ in routed]).mean()
        loss = loss - recipe.distinct_weight * distinct
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return {"loss": language.item(), "h": slopes.mean().item(), "balance": balance.item()}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_rate_share` of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    share = recipe.final_rate_share + (1 - recipe.final_rate_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.learning_rate * share


def draw_batch(recipe: Recipe, step: int, streams: list[torch.Tensor]) -> torch.Tensor:
    """Token windows [B, context] of one step, domains in turn, at offsets drawn from (seed, step) alone."""
    import torch

    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    rows = []
    for row in range(recipe.batch_size):
        stream = streams[row % len(streams)]
        start = int(torch.randint(len(stream) - recipe.context_tokens, (1,), generator=generator))
        rows.append(stream[start : start + recipe.context_tokens])
    return torch.stack(rows)


@contextmanager
def router_outputs(model: OlmoeForCausalLM) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Collect (logits [T, E], ids [T, K]) of every layer of each forward pass, with their gradients."""
    collected: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        collected.append((output[0], output[2]))

    handles = [layer.mlp.gate.register_forward_hook(keep) for layer in model.model.layers]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def router_noise(model: OlmoeForCausalLM, recipe: Recipe, generator: torch.Generator) -> Iterator[None]:
    """Choose experts by noisy logits inside it; hooks that were there before see the router's own choice."""

    def choose(_module: Any, _inputs: Any, output: Any) -> Any:
        return output[0], *noisy_choice(output[0], recipe.top_k, recipe.router_noise, generator)

    gates = [layer.mlp.gate for layer in model.model.layers] if recipe.router_noise else []
    handles = [gate.register_forward_hook(choose) for gate in gates]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
