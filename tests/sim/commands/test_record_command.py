"""`python -m sim record`: overrides, files, help and the sentences of its errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.__main__ import main
from sim.assembly.model_source import model_overrides
from sim.commands import record
from tests.support.tiny_models import build, save_model
from traces.errors import UserError
from traces.format.files import read_trace


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("hello there\nsecond prompt\n")
    return save_model(build("olmoe"), tmp_path / "tiny=model")


def test_a_folder_is_recorded(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [f"model={model.name}", "prompts=prompts.txt", "max_new_tokens=4", "out=sub/mine.safetensors"]
    assert record.main(overrides) == 0
    trace = read_trace("sub/mine.safetensors")
    assert (trace.num_requests, trace.num_tokens) == (2, 11 + 13 + 2 * 3)
    assert "2 requests, 30 tokens (24 prefill, 6 decode)" in capsys.readouterr().out
    assert list(Path("outputs/record").glob("*/*/.hydra/overrides.yaml"))


def test_similarity_is_measured_on_request(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sim.commands import info

    overrides = ["similarity=true", "similarity_tokens=7", "mode=teacher_forced", "out=alike.safetensors"]
    assert record.main([f"model={model.name}", "prompts=prompts.txt", *overrides]) == 0
    trace = read_trace("alike.safetensors")
    assert trace.expert_similarity is not None and trace.expert_similarity.shape == (3, 8, 8)
    assert "over 7 of 24 recorded tokens" in trace.provenance["expert_similarity"]
    assert info.main(["alike.safetensors"]) == 0
    assert "mean cosine of two experts of a layer" in capsys.readouterr().out


def test_the_default_output_is_the_run_folder(model: Path) -> None:
    args = ["model=huggingface", f"model.path='{model}'", "prompts=prompts.txt", "mode=teacher_forced", "requests=1"]
    assert record.main(args) == 0
    (path,) = Path("outputs/record").glob("*/*/trace.safetensors")
    assert read_trace(path).provenance["forcing"] == "teacher"


def test_short_form_of_the_model() -> None:
    assert model_overrides("model=demo") == ["model=demo"]
    assert model_overrides("model=a/b") == ["model=huggingface", "model.path='a/b'"]
    assert model_overrides("model=it's") == ["model=huggingface", "model.path='it\\'s'"]
    assert model_overrides("model.dtype=float32") == ["model.dtype=float32"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model=./absent"], r"model\.path=\./absent: this folder does not exist"),
        (["model=huggingface"], r"model\.path is not set"),
        (["model=mixtral_8x7b"], "only states sizes"),
        (["prompts=absent.txt"], r"prompts=absent\.txt: no such file"),
        (["mode=chat"], "mode=chat"),
        (["similarity=maybe"], "similarity=maybe: must be true or false"),
        (["similarity_tokens=0"], "similarity_tokens=0: must be at least 1"),
        (["max_new_tokens=many"], "max_new_tokens=many: must be a whole number"),
        (["requests=0"], "requests=0: must be at least 1"),
        (["model.dtype=int3"], r"model\.dtype=int3"),
        (["model.device=cuda"], "torch sees no CUDA device"),
    ],
)
def test_bad_input_is_one_sentence(model: Path, overrides: list[str], sentence: str) -> None:
    import torch

    if overrides == ["model.device=cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    given = [] if overrides[0].startswith("model=") else [f"model={model.name}"]
    with pytest.raises(UserError, match=sentence):
        record.main([*given, "prompts=prompts.txt", *overrides])
    assert not list(Path().rglob("trace.safetensors"))


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "examples:" in printed
    for key in (
        "prompts=",
        "mode=",
        "max_new_tokens=",
        "out=",
        "sampling.temperature=",
        "similarity=",
        "model.allow_download=",
    ):
        assert key in printed


def test_help_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from sim.__main__ import main; main(['record', '--help'])\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules), 'heavy import'"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ}, stdout=subprocess.DEVNULL)
