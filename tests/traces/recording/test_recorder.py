"""Recording: the rows of a trace are the passes that really ran, in every family; sizes are the parameters'."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_models import EXPERTS, FAMILIES, SMALL, build, save_model
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.trace import DECODE, PREFILL
from traces.recording.loading import LoadedModel, load_model, reachable
from traces.recording.packing import pack_scores, round_keeping_order
from traces.recording.prompts import Prompt, read_prompts
from traces.recording.recorder import RecordOptions, record

PROMPTS = (Prompt("hello there, world", "prose"), Prompt("x = 3\n", "code"))
EXACT = RecordOptions(max_new_tokens=5, half_precision=False, lookahead_extra=None)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    models: dict[str, LoadedModel] = {}

    def get(family: str) -> LoadedModel:
        if family not in models:
            models[family] = load_model(
                str(save_model(build(family), tmp_path_factory.mktemp("m") / family)), "float32"
            )
        return models[family]

    return get


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_trace_is_valid_and_complete(loaded: Any, family: str, tmp_path: Path) -> None:
    trace = record(loaded(family), PROMPTS, RecordOptions(max_new_tokens=5), progress=False)
    trace = read_trace(write_trace(tmp_path / "t.safetensors", trace) and tmp_path / "t.safetensors")
    assert trace.prompt_len.tolist() == [18, 6]
    assert np.diff(trace.request_offsets).tolist() == [18 + 4, 6 + 4]
    assert trace.phase[:22].tolist() == [PREFILL] * 18 + [DECODE] * 4
    assert trace.positions()[18:22].tolist() == [18, 19, 20, 21]
    assert trace.request_labels == ("prose", "code")
    assert trace.provenance["model"] == family and trace.provenance["decoding"] == "greedy"
    assert trace.router_logits is not None and trace.lookahead_before is not None and trace.lookahead_after is not None
    assert trace.lookahead_after.values.shape == (32, trace.num_layers - 1, EXPERTS)
    biased = family in ("deepseek_v2", "deepseek_v3", "ernie4_5_moe")
    assert (trace.selection_scores is not None) == biased
    expected = {
        "olmoe": "softmax",
        "qwen2_moe": "softmax",
        "jamba": "softmax",
        "deepseek_v2": "softmax",
        "deepseek_v3": "sigmoid_topk",
    }
    assert trace.score_function == expected.get(family, "softmax_topk")
    assert trace.provenance.get("weight_scale") == (2.0 if family.startswith("deepseek") else None)


def test_decode_rows_are_the_passes_over_the_generated_tokens(loaded: Any) -> None:
    model = loaded("olmoe")
    trace = record(model, PROMPTS[:1], EXACT, progress=False)
    prompt = torch.tensor([model.tokenizer(PROMPTS[0].text)["input_ids"]])
    with torch.no_grad():
        generated = model.model.generate(prompt, max_new_tokens=5, do_sample=False)[0]
        logits = model.model(input_ids=generated[None, :-1], output_router_logits=True).router_logits
    assert trace.token_ids is not None and trace.router_logits is not None
    assert trace.token_ids.tolist() == generated[:-1].tolist()  # the fifth token is never fed back
    np.testing.assert_allclose(trace.router_logits.values, torch.stack(logits, dim=1), atol=1e-5)


def test_teacher_forced_rows_equal_the_prefill_of_generate(loaded: Any) -> None:
    forced = record(loaded("mixtral"), PROMPTS, RecordOptions(mode="teacher_forced"), progress=False)
    generated = record(loaded("mixtral"), PROMPTS, RecordOptions(max_new_tokens=1), progress=False)
    assert forced.provenance["forcing"] == "teacher" and "forcing" not in generated.provenance
    assert set(forced.phase.tolist()) == {PREFILL}
    assert np.array_equal(forced.topk_ids, generated.topk_ids)
    assert forced.request_offsets.tolist() == [0, 18, 24]


def test_sizes_are_counted_from_the_parameters(loaded: Any) -> None:
    geometry = record(loaded("qwen2_moe"), PROMPTS[1:], EXACT, progress=False).geometry
    hidden, ffn, shared, float32 = 32, 16, 24, 4
    assert geometry.expert_bytes == (3 * hidden * ffn * float32,) * 3
    assert geometry.shared_bytes == ((3 * hidden * shared + hidden) * float32,) * 3
    # q, k, v, o and the biases of q, k, v; router; two norms.
    attention = (2 * 32 * 32 + 2 * 32 * 16) + (32 + 16 + 16) + 32 * EXPERTS + 2 * 32
    assert geometry.attention_bytes == (attention * float32,) * 3
    assert geometry.other_bytes == (SMALL["vocab_size"] * hidden + hidden) * float32  # head and last norm
    assert geometry.kv_bytes_per_token == 2 * 2 * 8 * float32
    assert (geometry.hidden_size, geometry.weight_bits) == (32, 32.0)


def test_dense_layers_count_as_other_bytes(loaded: Any) -> None:
    model = loaded("deepseek_v3")
    geometry = record(model, PROMPTS[1:], EXACT, progress=False).geometry
    total = sum(p.numel() * p.element_size() for p in model.model.parameters())
    assert geometry.num_layers == 2
    parts = (geometry.expert_bytes, geometry.attention_bytes, geometry.shared_bytes)
    experts, attention, shared = (sum(part or ()) for part in parts)
    embedding = SMALL["vocab_size"] * 32 * 4
    assert geometry.other_bytes is not None
    assert experts * EXPERTS + attention + shared + geometry.other_bytes + embedding == total


def test_generation_stops_at_the_end_token_unless_told(loaded: Any) -> None:
    model = loaded("olmoe")
    free = record(model, PROMPTS[:1], EXACT, progress=False)
    assert free.token_ids is not None
    third = int(free.token_ids[18 + 2])
    first_time = free.token_ids[18:].tolist().index(third)
    model.model.generation_config.eos_token_id = third
    try:
        stopped = record(model, PROMPTS[:1], EXACT, progress=False)
        ignoring = RecordOptions(max_new_tokens=5, ignore_eos=True)
        assert stopped.num_tokens == 18 + first_time
        assert record(model, PROMPTS[:1], ignoring, progress=False).num_tokens == free.num_tokens
    finally:
        model.model.generation_config.eos_token_id = None


def test_sampling_is_set_by_the_seed(loaded: Any) -> None:
    def sampled(seed: int) -> list[int]:
        options = RecordOptions(max_new_tokens=12, temperature=2.0, seed=seed)
        trace = record(loaded("olmoe"), PROMPTS, options, progress=False)
        assert trace.provenance["decoding"] == "sampled at temperature 2" and trace.token_ids is not None
        return [int(token) for token in trace.token_ids]

    assert sampled(3) == sampled(3) != sampled(4)


def test_same_run_same_bytes(loaded: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_trace(
            tmp_path / name, record(loaded("gpt_oss"), PROMPTS, RecordOptions(max_new_tokens=3), progress=False)
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_bfloat16_models_are_recorded(tmp_path: Path) -> None:
    folder = save_model(build("qwen3_moe").to(torch.bfloat16), tmp_path)
    trace = record(load_model(str(folder)), PROMPTS, RecordOptions(max_new_tokens=3), progress=False)
    assert trace.provenance["dtype"] == "bfloat16" and trace.geometry.weight_bits == 16.0
    write_trace(tmp_path / "t.safetensors", trace)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "chat"}, "mode=chat: must be generate or teacher_forced"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be at least 1"),
        ({"prompt_tokens": 0}, "prompt_tokens=0: must be at least 1"),
        ({"temperature": -1.0}, "sampling.temperature=-1.0: must be zero"),
        ({"temperature": float("nan")}, "sampling.temperature=nan"),
        ({"lookahead_extra": 0}, "lookahead.extra=0: must be at least 1"),
        ({"max_new_tokens": 200}, "this model's context is 128 tokens"),
    ],
)
def test_options_out_of_range(loaded: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        record(loaded("mixtral"), PROMPTS, RecordOptions(**options), progress=False)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("all", "this folder does not exist"),
        ("config.json", "no config.json"),
        ("model.safetensors", "no weights"),
        ("tokenizer", "no tokenizer"),
    ],
)
def test_incomplete_folders(tmp_path: Path, missing: str, sentence: str) -> None:
    folder = tmp_path / "model"
    if missing != "all":
        save_model(build("olmoe"), folder, tokenizer=missing != "tokenizer")
        (folder / missing).unlink(missing_ok=True)
    with pytest.raises(UserError, match=sentence):
        load_model(str(folder))


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    import torch

    model = build("olmoe")
    folder = save_model(model, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled weights \(\*\.bin, \*\.pt\) are not loaded"):
        load_model(str(folder))


def test_an_empty_folder_a_file_and_a_damaged_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        load_model(str(tmp_path / "file"))
    folder = save_model(build("olmoe"), tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(UserError, match="is no safetensors file"):
        load_model(str(folder))
    folder = save_model(build("olmoe"), tmp_path / "n")
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="its configuration cannot be read"):
        load_model(str(folder))


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_model(build("olmoe"), tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the weights lack 1 tensors, for example model\.norm\.weight"):
        load_model(str(folder))


def test_no_network_is_one_sentence_within_seconds() -> None:
    import socket
    import time

    with pytest.raises(UserError, match="neither a folder nor a model in the local Hugging Face cache"):
        load_model("nobody/no-such-model")
    with socket.socket() as silent:  # accepts and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.3)
        assert time.monotonic() - started < 3


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 could not be reached within 1 s"):
        load_model("nobody/no-such-model", allow_download=True)


def test_prompt_files(tmp_path: Path) -> None:
    text = tmp_path / "p.txt"
    text.write_text("one\n\ntwo\nthree\n")
    assert [p.text for p in read_prompts(str(text), 2, 0, None)] == ["one", "two"]
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"prompt": "a", "label": "x"}\n{"prompt": "b"}\n')
    assert read_prompts(str(lines), None, 0, None) == (Prompt("a", "x"), Prompt("b", None))
    for content, sentence in (
        ("", "has no prompt"),
        ("oops\n", "line 1: must be JSON"),
        ('{"text": "a"}\n', 'must be a JSON object with a text "prompt"'),
        ('{"prompt": "a", "label": 3}\n', '"label" must be a text'),
    ):
        lines.write_text(content)
        with pytest.raises(UserError, match=sentence):
            read_prompts(str(lines), None, 0, None)
    with pytest.raises(UserError, match="has only 3 prompts"):
        read_prompts(str(text), 4, 0, None)
    with pytest.raises(UserError, match="no such file"):
        read_prompts(str(tmp_path / "none.txt"), None, 0, None)


def test_rounding_to_float16_keeps_the_order_that_decides() -> None:
    rng = np.random.default_rng(0)
    logits = (4 + 0.002 * rng.standard_normal((200, 3, 32))).astype(np.float32)  # closer than a float16 step
    rounded = round_keeping_order(logits, best=5).astype(np.float32)
    order = np.argsort(-logits, axis=-1, kind="stable")
    top = np.take_along_axis(rounded, order, axis=-1)
    assert (np.diff(top[..., :5], axis=-1) < 0).all()
    assert (top[..., 5:] <= top[..., 4:5]).all()
    apart = rng.standard_normal((50, 3, 32)).astype(np.float32)
    np.testing.assert_allclose(round_keeping_order(apart, 5), apart, atol=4e-3)


def test_truncated_tables_give_exact_probabilities_of_what_they_list() -> None:
    logits = np.random.default_rng(1).standard_normal((20, 2, 64)).astype(np.float32)
    table = pack_scores(logits, top_k=6, width=22, half=False)
    dense = pack_scores(logits, top_k=6, width=None, half=False).probabilities(0, 20, 64)
    assert table.ids is not None and table.ids.dtype == np.uint8 and table.values.shape == (20, 2, 22)
    listed = table.ids.astype(np.int64)
    cut = table.probabilities(0, 20, 64)
    np.testing.assert_allclose(np.take_along_axis(cut, listed, -1), np.take_along_axis(dense, listed, -1), rtol=1e-5)
    assert pack_scores(logits * 1e6, 6, None, half=True).values.dtype == np.float32  # too large for float16
