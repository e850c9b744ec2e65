"""Training the demo model with a tiny recipe: reproducible, resumable to the bit, safe in its cache."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.maintenance.held_out import as_trace, harm_ratio, held_out_windows, measure, perplexity_change
from traces.corpus import Corpus, Document
from traces.demo import train as training
from traces.demo.cache import demo_model, training_summary
from traces.demo.losses import balance_loss, distinct_tokens, gate_slope, noisy_choice, pooled_balance_loss
from traces.demo.recipe import RECIPES, SLOPE_STATEMENT, Recipe, named_recipe
from traces.errors import UserError
from traces.recording.loading import load_model

TINY = Recipe(
    name="tiny",
    num_layers=2,
    num_experts=8,
    top_k=2,
    hidden_size=16,
    expert_ffn_size=8,
    num_heads=2,
    vocab_size=400,
    context_tokens=24,
    batch_size=2,
    steps=7,
    warmup_steps=2,
)


def small_corpus() -> Corpus:
    words = [f"{a}{b}" for a in ("lo", "mi", "ka", "tu", "re") for b in ("n", "s", "t", "va", "do", "ri")]
    rng = random.Random(0)

    def document(module: str, domain: str) -> Document:
        return Document(module, domain, " ".join(rng.choices(words, k=800)))  # type: ignore[arg-type]

    train = tuple(document(f"t{i}", domain) for domain in ("prose", "code") for i in range(3))
    return Corpus(train, tuple(document(f"h{i}", domain) for domain in ("prose", "code") for i in range(2)))


@pytest.fixture(scope="module")
def streams() -> list[torch.Tensor]:
    torch.set_num_threads(1)
    corpus = small_corpus()
    return training.training_streams(corpus, training.fit_tokenizer(TINY, corpus))


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_killed_training_continues_to_the_same_bits(
    streams: list[torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    whole, summary = training.train(TINY, streams, tmp_path / "whole.safetensors")
    for stop in (2, 3, 5):  # on a checkpoint and between two
        training.train(TINY, streams, tmp_path / "parts.safetensors", stop_after=stop)
    resumed, resumed_summary = training.train(TINY, streams, tmp_path / "parts.safetensors")
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)
    assert summary["final_loss"] == resumed_summary["final_loss"] and resumed_summary["steps"] == TINY.steps


def test_the_seed_sets_the_weights(streams: list[torch.Tensor], tmp_path: Path) -> None:
    one, _ = training.train(replace(TINY, steps=2), streams, tmp_path / "a")
    same, _ = training.train(replace(TINY, steps=2), streams, tmp_path / "b")
    other, _ = training.train(replace(TINY, steps=2, seed=1), streams, tmp_path / "c")
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(same), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_the_slope_term_moves_the_slope_to_its_target(streams: list[torch.Tensor], tmp_path: Path) -> None:
    slopes: dict[float, list[float]] = {0.0: [], 5.0: []}
    for weight, seen in slopes.items():
        recipe = replace(TINY, steps=40, slope_weight=weight, slope_target=0.42)
        training.train(recipe, streams, tmp_path / str(weight), on_step=lambda _s, p, seen=seen: seen.append(p["h"]))
    distance = {weight: abs(np.mean(seen[-5:]) - 0.42) for weight, seen in slopes.items()}
    assert distance[5.0] < 0.05 < distance[0.0]


def test_the_finished_model_is_a_hugging_face_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_SIM_CACHE", str(tmp_path))
    corpus = small_corpus()
    folder = demo_model(TINY, corpus)
    assert folder.parent == tmp_path and (folder / "tokenizer_config.json").is_file()
    assert not list(tmp_path.glob("*.unfinished")) and not list(folder.glob("checkpoint*"))
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert training_summary(folder)["statement"] == SLOPE_STATEMENT
    assert demo_model(TINY, corpus) == folder  # second time: from the cache
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    loaded = load_model(str(folder), "float32")
    assert len(loaded.tokenizer) <= TINY.vocab_size
    text = "lon mit  kava\n"
    assert loaded.tokenizer.decode(loaded.tokenizer(text)["input_ids"]) == text
    windows = held_out_windows(corpus, loaded.tokenizer, 6, 24)
    evidence = measure(loaded.model, windows)
    assert as_trace(evidence, TINY.num_experts).num_tokens == 6 * 24
    assert 0 <= evidence.low_share <= 1 and evidence.gate_slope > 0
    low, mid, high = (perplexity_change(evidence, "dropped")[i] for i in (1, 0, 2))
    assert low <= mid <= high
    assert harm_ratio(evidence)[1] <= harm_ratio(evidence)[2]


def test_a_training_that_was_killed_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_SIM_CACHE", str(tmp_path))
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 1)
    corpus = small_corpus()
    steps = []

    def killed(*args: object, **kwargs: object) -> object:
        steps.append(args[1])
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)  # type: ignore[arg-type]

    original = training._train_step
    monkeypatch.setattr(training, "_train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        demo_model(TINY, corpus)
    demo_model(TINY, corpus)
    assert steps == [0, 1, 2, 3, 3, 4, 5, 6]  # step 3 was lost, nothing before it


def test_a_damaged_checkpoint_and_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: list[torch.Tensor]
) -> None:
    (tmp_path / "damaged").write_bytes(b"nothing of use")
    with pytest.raises(UserError, match="cannot be continued"):
        training.train(TINY, streams, tmp_path / "damaged")
    monkeypatch.setenv("MOE_SIM_CACHE", str(tmp_path / "damaged" / "below"))
    with pytest.raises(UserError, match="MOE_SIM_CACHE names another folder"):
        demo_model(TINY, small_corpus())


def test_the_key_names_recipe_and_seed() -> None:
    keys = {named_recipe(name, seed).key for name in RECIPES for seed in (0, 1)}
    assert len(keys) == 4
    assert named_recipe("demo").statement == SLOPE_STATEMENT != named_recipe("demo_plain").statement
    with pytest.raises(UserError, match=r"model\.recipe=none: must be one of demo, demo_plain"):
        named_recipe("none")


def test_pooled_balance_is_blind_to_skews_that_cancel() -> None:
    one, other = torch.tensor([[6.0, -6.0]]).repeat(3, 1), torch.tensor([[-6.0, 6.0]]).repeat(3, 1)
    routed = [(one, one.topk(1).indices), (other, other.topk(1).indices)]
    assert pooled_balance_loss(routed).item() == pytest.approx(1.0)
    assert balance_loss(*routed[0]).item() == pytest.approx(2.0, rel=1e-4)


def test_losses_on_hand_worked_routing() -> None:
    even = torch.zeros(4, 4)
    ids = torch.tensor([[0, 1], [2, 3], [0, 1], [2, 3]])
    assert balance_loss(even, ids).item() == pytest.approx(1.0)
    skewed = torch.log(torch.tensor([[0.7, 0.1, 0.1, 0.1]])).repeat(4, 1)
    one = torch.zeros(4, 1, dtype=torch.int64)
    assert balance_loss(skewed, one).item() == pytest.approx(4 * 0.7)
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    expected = (np.log(0.4 / 0.2) + np.log(0.3 / 0.2)) / 2
    assert gate_slope(logits, top_k=2).item() == pytest.approx(expected, rel=1e-5)


def test_experts_that_divide_the_tokens_know_all_of_them() -> None:
    """Two tokens, two experts: ln 2 where each has its own, 0 where both have the same scores, half way by hand."""
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0], [50.0, 0.0], [0.0, 50.0]])
    tokens = torch.tensor([7, 9, 7, 9])
    assert distinct_tokens(sure, tokens).item() == pytest.approx(np.log(2), abs=1e-5)
    assert distinct_tokens(sure, torch.tensor([7, 7, 9, 9])).item() == pytest.approx(0.0, abs=1e-5)
    scores = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    inside = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert distinct_tokens(scores.log(), torch.tensor([1, 2])).item() == pytest.approx(np.log(2) - inside, abs=1e-6)


def test_noise_swaps_experts_of_near_scores_only() -> None:
    """A lead of 5 is never lost to noise of .3, one of .1 in about 41 % of draws: normal(-.1 / (.3 sqrt 2))."""
    logits = torch.tensor([[5.0, 0.1, 0.0, -5.0]]).repeat(4000, 1)
    weights, ids = noisy_choice(logits, 2, 0.3, torch.Generator().manual_seed(0))
    assert bool((ids[:, 0] == 0).all()) and bool((ids != 3).all())
    assert float((ids[:, 1] == 2).float().mean()) == pytest.approx(0.407, abs=0.03)
    assert torch.allclose(weights.sum(-1), torch.ones(4000))
    same, _ = noisy_choice(logits, 2, 0.0, torch.Generator().manual_seed(0))
    assert torch.allclose(same[0], logits[0, :2].softmax(-1))


@pytest.mark.parametrize("changes", [{"router_noise": 0.3}, {"distinct_weight": 0.5}])
def test_noise_and_distinct_tokens_change_the_weights_and_continue_to_the_same_bits(
    changes: dict[str, float], streams: list[torch.Tensor], tmp_path: Path
) -> None:
    recipe = replace(TINY, steps=4, **changes)
    assert recipe.key != replace(TINY, steps=4).key
    plain, _ = training.train(replace(TINY, steps=4), streams, tmp_path / "plain")
    whole, _ = training.train(recipe, streams, tmp_path / "whole")
    training.train(recipe, streams, tmp_path / "parts", stop_after=2)
    parts, _ = training.train(recipe, streams, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(parts), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(whole), weights(plain), strict=True))
