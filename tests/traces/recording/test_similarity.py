"""Similarity of experts: equal to a direct computation, in every family, and recording it changes nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.random_traces import recorded_trace
from tests.support.tiny_models import EXPERTS, FAMILIES, build, save_model
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.tensors import hash_content, trace_tensors
from traces.format.validation import validate
from traces.recording.loading import LoadedModel, load_model
from traces.recording.moe_layers import find_moe_layers
from traces.recording.prompts import Prompt
from traces.recording.recorder import RecordOptions, record
from traces.recording.similarity import SimilaritySample, expert_output
from traces.recording.tap import Routing, Tap
from traces.statistics.summary import summarize

PROMPTS = (Prompt("hello there, world", "prose"), Prompt("x = 3\n", "code"))
MEASURED = RecordOptions(max_new_tokens=5, similarity=True)


def loaded(model: Any, folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(str(save_model(model, folder)), dtype)


def inputs_of_experts(model: LoadedModel, token_ids: list[list[int]]) -> dict[str, torch.Tensor]:
    """What enters each experts module over whole requests, by module name, [T, H]."""
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _m, args, name=name: seen.setdefault(name, []).append(args[0].reshape(-1, args[0].shape[-1]))
        )
        for name, module in model.model.named_modules()
        if type(module).__name__.endswith("Experts")
    ]
    with torch.no_grad():
        for ids in token_ids:
            model.model(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows) for name, rows in seen.items()}


def requests_of(trace: Any) -> list[list[int]]:
    bounds = zip(trace.request_offsets[:-1], trace.request_offsets[1:], strict=True)
    return [trace.token_ids[start:stop].tolist() for start, stop in bounds]


def test_similarity_is_the_mean_cosine_of_all_experts_outputs(tmp_path: Path) -> None:
    model = loaded(build("olmoe"), tmp_path)
    trace = record(model, PROMPTS, MEASURED, progress=False)
    assert trace.expert_similarity is not None and trace.expert_similarity.dtype == np.float16
    states = inputs_of_experts(model, requests_of(trace))
    for layer, (name, rows) in enumerate(states.items()):
        experts = model.model.get_submodule(name)
        outputs = []
        for up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True):
            gate, linear = (rows @ up.T).chunk(2, dim=-1)
            outputs.append((torch.nn.functional.silu(gate) * linear) @ down.T)
        directions = torch.stack(outputs).detach().double()
        directions = directions / directions.norm(dim=-1, keepdim=True)
        expected = torch.einsum("eth,fth->ef", directions, directions) / len(rows)
        np.testing.assert_allclose(trace.expert_similarity[layer], expected, atol=1e-3)
    assert len(states) == trace.num_layers
    apart = trace.expert_similarity[:, ~np.eye(EXPERTS, dtype=bool)]
    assert np.abs(apart).max() < 0.9 and np.abs(apart).max() > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_twin_experts_are_found_in_every_family(family: str, tmp_path: Path) -> None:
    built = build(family)
    for layer in find_moe_layers(built):
        with torch.no_grad():
            for parameter in layer.experts.parameters(recurse=False):
                parameter[5] = parameter[3]
    trace = record(loaded(built, tmp_path), PROMPTS, MEASURED, progress=False)
    validate(trace)
    similarity = trace.expert_similarity
    assert similarity is not None and similarity.shape == (trace.num_layers, EXPERTS, EXPERTS)
    assert (similarity[:, 3, 5] > 0.999).all()
    np.testing.assert_allclose(similarity[:, 3], similarity[:, 5], atol=2e-3)
    others = np.ones((EXPERTS, EXPERTS), bool)
    others[3, 5] = others[5, 3] = False
    np.fill_diagonal(others, False)
    assert similarity[:, others].max() < 0.98


def test_one_expert_alone_is_what_the_layer_makes_of_it(tmp_path: Path) -> None:
    model = loaded(build("gpt_oss"), tmp_path).model
    layer = find_moe_layers(model)[0]
    states = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    ids, weights = torch.tensor([[2, 6]] * 4), torch.tensor([[0.75, 0.25]] * 4)
    with torch.no_grad():
        mixed = layer.experts(states, ids, weights)
        alone = [expert_output(layer, expert, states) for expert in (2, 6)]
    torch.testing.assert_close(mixed, 0.75 * alone[0] + 0.25 * alone[1])


def test_measuring_changes_nothing_else(tmp_path: Path) -> None:
    model = loaded(build("qwen3_moe"), tmp_path)
    plain = record(model, PROMPTS, replace(MEASURED, similarity=False), progress=False)
    measured = record(model, PROMPTS, MEASURED, progress=False)
    assert plain.expert_similarity is None and "expert_similarity" not in plain.provenance
    expected, found = trace_tensors(plain), trace_tensors(measured)
    assert found.keys() - expected.keys() == {"expert_similarity"}
    for name, array in expected.items():
        assert array.tobytes() == found[name].tobytes(), name
    assert "over 32 of 32 recorded tokens" in measured.provenance["expert_similarity"]


def test_sampling_changes_no_logit(tmp_path: Path) -> None:
    model = loaded(build("mixtral"), tmp_path).model
    tokens = torch.arange(1, 12)[None]
    with torch.no_grad():
        without = model(input_ids=tokens).logits
        sample = SimilaritySample(4, seed=0)
        with Tap(model, sample.add) as tap:
            during = model(input_ids=tokens).logits
        sample.measure(tap.layers)
        after = model(input_ids=tokens).logits
    assert torch.equal(without, during) and torch.equal(without, after)


def test_bfloat16_and_few_tokens(tmp_path: Path) -> None:
    model = loaded(build("qwen3_moe").to(torch.bfloat16), tmp_path, "bfloat16")
    trace = record(model, PROMPTS, replace(MEASURED, similarity_tokens=3), progress=False)
    validate(trace)
    assert "over 3 of 32 recorded tokens" in trace.provenance["expert_similarity"]


def routing(layer: int, rows: range) -> Routing:
    nothing = torch.empty(0)
    return Routing(layer, torch.tensor([[float(row)] for row in rows]), nothing, nothing, None, None, None)


def test_the_sample_is_even_and_the_same_in_every_layer() -> None:
    counts = np.zeros(40)
    for seed in range(600):
        sample = SimilaritySample(8, seed)
        for rows in (range(3), range(3, 25), range(25, 40)):
            sample.add(routing(0, rows))
            sample.add(routing(1, rows))
        kept = [sample._states[layer][:, 0].tolist() for layer in (0, 1)]
        assert kept[0] == kept[1] and len(set(kept[0])) == 8 == sample.count
        counts[[int(row) for row in kept[0]]] += 1
    assert counts == pytest.approx(600 * 8 / 40, abs=50)  # 4.5 standard deviations


def test_similarity_is_written_read_and_hashed(tmp_path: Path) -> None:
    trace = with_similarity(recorded_trace())
    found = read_trace(write_trace(tmp_path / "t", trace) and tmp_path / "t")
    np.testing.assert_array_equal(found.expert_similarity, trace.expert_similarity)
    assert hash_content(found) == found.content_hash != hash_content(recorded_trace())
    assert found.select_requests(1).expert_similarity is found.expert_similarity
    summary = summarize(found)["similarity"]
    # expert 0 and 1 are 0.5 alike, all others 0: 2 of 8 * 7 pairs, and 2 of 8 best partners
    assert summary == pytest.approx({"mean": 0.5 * 2 / 56, "best_partner": 0.5 * 2 / 8})


def with_similarity(trace: Any, **entries: float) -> Any:
    alike = np.zeros((trace.num_layers, trace.num_experts, trace.num_experts), np.float16)
    alike[:] = np.eye(trace.num_experts)
    alike[:, 0, 1] = alike[:, 1, 0] = 0.5
    return replace(trace, expert_similarity=alike)


@pytest.mark.parametrize(
    ("where", "value", "sentence"),
    [
        ((2, 3, 4), 0.25, "at layer 2, experts 3 and 4: the value is 0.25: must be the same both ways"),
        ((1, 3, 4), np.nan, "at layer 1, experts 3 and 4: the value is nan: must be a number from -1 to 1"),
        ((1, 3, 4), 1.5, "the value is 1.5: must be a number from -1 to 1"),
        ((0, 2, 2), 0.5, "experts 2 and 2: the value is 0.5: must be 1, an expert's similarity to itself"),
    ],
)
def test_wrong_similarities_have_their_sentence(where: tuple[int, ...], value: float, sentence: str) -> None:
    trace = with_similarity(recorded_trace())
    trace.expert_similarity[where] = value
    with pytest.raises(UserError, match="Tensor 'expert_similarity' ") as caught:
        validate(trace)
    assert sentence in str(caught.value)


def test_shape_and_dtype_are_checked() -> None:
    trace = with_similarity(recorded_trace())
    with pytest.raises(UserError, match=r"has shape \(2, 8, 8\): must be \(3, 8, 8\)"):
        validate(replace(trace, expert_similarity=trace.expert_similarity[:2]))
    with pytest.raises(UserError, match="has dtype float64: must be float16"):
        validate(replace(trace, expert_similarity=trace.expert_similarity.astype(np.float64)))


def test_at_least_one_token_is_measured() -> None:
    with pytest.raises(UserError, match="similarity_tokens=0: must be at least 1"):
        RecordOptions(similarity=True, similarity_tokens=0)
