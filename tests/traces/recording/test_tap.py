"""The tap on ten families: changes nothing when it only listens, sees the router's own choice, and can replace it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_models import EXPERTS, FAMILIES, SMALL, build, save_model
from traces.errors import UserError
from traces.recording.loading import load_model
from traces.recording.moe_layers import find_moe_layers
from traces.recording.tap import Routing, Tap

BIASED = ("deepseek_v2", "deepseek_v3", "ernie4_5_moe")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Family name -> model reloaded from a folder that save_pretrained wrote."""
    loaded: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in loaded:
            folder = tmp_path_factory.mktemp(family)
            loaded[family] = load_model(str(save_model(build(family), folder)), "float32").model
        return loaded[family]

    return get


def tokens(length: int = 13, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 256, (1, length), generator=torch.Generator().manual_seed(seed))


def run(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a prefill and of one cached decode step."""
    with torch.no_grad():
        prefill = model(input_ids=tokens(), use_cache=True)
        step = model(input_ids=tokens(1, seed=2), past_key_values=prefill.past_key_values, use_cache=True)
    return prefill.logits, step.logits


@pytest.mark.parametrize("family", FAMILIES)
def test_recording_changes_no_logit(models: Any, family: str) -> None:
    model = models(family)
    without = run(model)
    seen: list[int] = []
    with Tap(
        model, lambda r: seen.append(r.layer), on_layer_end=lambda *_: None, lookahead=True, selection=True
    ) as tap:
        tapped = run(model)
    after = run(model)
    assert seen == list(range(len(tap.layers))) * 2
    for logits in (tapped, after):
        assert torch.equal(without[0], logits[0])
        assert torch.equal(without[1], logits[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_weights_and_logits_are_the_routers_own(models: Any, family: str) -> None:
    model = models(family)
    layers = find_moe_layers(model)
    outputs: list[Any] = []
    routings: list[Routing] = []
    hooks = [layer.router.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for layer in layers]
    with Tap(model, routings.append, selection=True, layers=layers):
        run(model)
    for hook in hooks:
        hook.remove()
    assert len(outputs) == len(routings) == 2 * len(layers)
    for (logits, weights, ids, *_), routing in zip(outputs, routings, strict=True):
        assert torch.equal(ids, routing.topk_ids)
        assert torch.equal(weights, routing.topk_weights)
        assert torch.equal(logits, routing.router_logits)
        assert torch.equal(logits.topk(ids.shape[-1]).indices.sort().values, ids.sort().values) or family in BIASED
        scores = routing.selection_scores
        assert scores is not None
        assert torch.equal(scores.topk(ids.shape[-1]).indices.sort().values, ids.sort().values)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_callback_returns_is_executed(models: Any, family: str) -> None:
    model = models(family)
    layers = find_moe_layers(model)
    executed: list[torch.Tensor] = []
    with Tap(model, lambda r: ((r.topk_ids + 1) % EXPERTS, r.topk_weights), layers=layers):
        hooks = [
            layer.experts.register_forward_pre_hook(
                lambda _m, args, kwargs: executed.append(args[1] if len(args) > 1 else kwargs["top_k_index"]),
                with_kwargs=True,
            )
            for layer in layers
        ]
        original: list[torch.Tensor] = []
        with Tap(model, lambda r: original.append(r.topk_ids), layers=layers):
            replaced = run(model)
        for hook in hooks:
            hook.remove()
    assert not torch.equal(replaced[0], run(model)[0])
    for chosen, ran in zip(original, executed, strict=True):
        assert torch.equal((chosen + 1) % EXPERTS, ran)
    with Tap(model, lambda r: (r.topk_ids.clone(), r.topk_weights.clone()), layers=layers):
        assert torch.equal(run(model)[0], run(model)[0])


def test_lookahead_is_the_next_gate_on_this_layers_states(models: Any) -> None:
    model = models("olmoe")
    before: dict[int, torch.Tensor] = {}
    after: dict[int, torch.Tensor] = {}
    with (
        Tap(
            model,
            lambda r: before.update({r.layer: r.lookahead}),
            on_layer_end=lambda i, x: after.update({i: x}),
            lookahead=True,
        ),
        torch.no_grad(),
    ):
        states = model(input_ids=tokens(), output_hidden_states=True).hidden_states
    assert sorted(after) == [0, 1] and before[2] is None
    inputs = {}
    hooks = [
        layer.mlp.gate.register_forward_pre_hook(lambda _m, args, i=i: inputs.update({i: args[0]}))
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        model(input_ids=tokens())
        for layer in (0, 1):
            following = model.model.layers[layer + 1]
            expected = following.mlp.gate.forward(inputs[layer])[0]
            assert torch.equal(before[layer], expected)
            normed = following.post_attention_layernorm.forward(states[layer + 1])
            assert torch.equal(after[layer], following.mlp.gate.forward(normed)[0])
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_both_lookaheads(models: Any, family: str) -> None:
    model = models(family)
    ends: list[int] = []
    tap = Tap(model, on_layer_end=lambda layer, logits: ends.append(logits.shape[-1]), lookahead=True)
    assert tap.has_router_logits and tap.has_lookahead_after
    with tap:
        run(model)
    assert ends == [EXPERTS] * 2 * (len(tap.layers) - 1)


def hook_count(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_are_gone_after_an_error(models: Any) -> None:
    model = models("mixtral")
    before = hook_count(model)
    with pytest.raises(RuntimeError, match="stop"), Tap(model, lambda r: _raise(), selection=True):
        run(model)
    assert hook_count(model) == before
    run(model)


def _raise() -> None:
    raise RuntimeError("stop")


def test_a_replacement_of_another_shape_is_refused(models: Any) -> None:
    model = models("mixtral")
    narrower = Tap(model, lambda r: (r.topk_ids[:, :1], r.topk_weights[:, :1]))
    with pytest.raises(ValueError, match="must be of the same shapes"), narrower:
        run(model)


def refusal(tmp_path: Path, config: Any, auto_class: str = "AutoModelForCausalLM") -> str:
    import transformers

    folder = save_model(getattr(transformers, auto_class).from_config(config), tmp_path)
    with pytest.raises(UserError) as caught:
        Tap(load_model(str(folder), "float32").model)
    sentence = str(caught.value)
    assert "\n" not in sentence and not sentence.endswith(".")
    return sentence


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    assert "llama is a dense model" in refusal(tmp_path, LlamaConfig(**SMALL))


def test_families_that_cannot_be_hooked_are_refused(tmp_path: Path) -> None:
    from transformers import DogeConfig, NllbMoeConfig, SwitchTransformersConfig

    doge = DogeConfig(**{**SMALL, "is_moe": True, "num_experts": 16, "num_experts_per_tok": 2})
    assert "doge has 16 experts per layer but cannot be hooked" in refusal(tmp_path / "doge", doge)
    seq2seq = "AutoModelForSeq2SeqLM"
    switch = SwitchTransformersConfig(
        vocab_size=300, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2, num_experts=4
    )
    assert "switch_transformers is an encoder-decoder model and cannot be hooked" in refusal(
        tmp_path / "s", switch, seq2seq
    )
    nllb = NllbMoeConfig(
        vocab_size=300,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_experts=4,
    )
    assert "nllb-moe is an encoder-decoder model and cannot be hooked" in refusal(tmp_path / "n", nllb, seq2seq)


def test_a_layer_that_the_probe_does_not_reach_is_refused() -> None:
    model = build("mixtral")
    model.spare = build("mixtral").model.layers[0]
    with pytest.raises(UserError, match=r"spare\.mlp\.experts was not called in a probe pass"):
        find_moe_layers(model)


def test_expert_parallel_models_are_refused() -> None:
    model = build("mixtral")
    model.model.layers[0].mlp.experts._is_expert_parallel = True
    with pytest.raises(UserError, match="expert parallelism"):
        find_moe_layers(model)
