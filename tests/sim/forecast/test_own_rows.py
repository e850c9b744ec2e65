"""Rows of one's own: checked, kept, predicted, and what they do to the next forecast."""

from pathlib import Path

import pytest

from sim.commands.measured import main
from sim.forecast.machines import read_machine
from sim.forecast.own_rows import kept_rows, machine_key, rows_of, setting_of
from sim.forecast.plans import Ask, plans_for
from sim.forecast.predict import forecast, shares_of, shipped_parameters
from traces.errors import UserError

ROW = """machine_id: rtx3060_ddr4
model: gpt_oss_20b
runtime: llama.cpp
flags: -ngl 99 --n-cpu-moe 10
context: 4096
decode_tok_s: 30.2
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOE_SIM_DATA", str(tmp_path / "data"))
    return tmp_path


def row(folder: Path, text: str = ROW, name: str = "row.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_row_is_predicted_kept_listed_and_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "no rows of your own" in capsys.readouterr().out
    assert main([row(folder)]) == 0
    said = capsys.readouterr().out
    assert "own.1  gpt_oss_20b on rtx3060_ddr4: 30.2 tokens/s MEASURED; predicted" in said
    assert main([]) == 0
    assert "own.1  30.2 tokens/s  gpt_oss_20b" in capsys.readouterr().out
    assert main(["remove=own.1"]) == 0
    assert not kept_rows()


def test_the_next_forecast_is_conditioned_on_the_row(folder: Path) -> None:
    machine = read_machine("rtx3060_ddr4", shares_of(shipped_parameters()))
    main([row(folder)])
    (own,) = kept_rows()
    setting = setting_of(own, machine)
    before, after = forecast(setting, ()), forecast(setting, rows_of(machine, "rtx3060_ddr4"))
    assert before.rows_before == 0
    assert after.rows_before == 1
    assert abs(after.tokens_per_s - 30.2) < abs(before.tokens_per_s - 30.2)
    assert after.high / after.low < before.high / before.low


def test_a_row_moves_its_own_kind_of_plan_only(folder: Path) -> None:
    from sim.forecast.models import read_model

    machine = read_machine("rtx3060_ddr4", shares_of(shipped_parameters()))
    main([row(folder)])
    rows = rows_of(machine, "rtx3060_ddr4")
    plans, _ = plans_for(Ask(read_model("qwen3_30b_a3b_q4", None), machine, None, 4096, 1.5e9), ["llama_cpp"])
    assert [forecast(plan.setting, rows).rows_before for plan in plans] == [1, 0]  # experts on the CPU; all of it


def test_a_csv_of_several_rows_and_of_the_corpus_own_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "machine_id,model,quantisation,runtime,placement_value,decode_tok_s\n"
        '"RTX 3060, i5-12400, 64 GB RAM",Qwen3-30B-A3B,Q4_K_M,llama.cpp,exps=CPU,20\n'
        '"rtx 3060,  i5-12400, 64 GB ram",Qwen3-30B-A3B,Q4_K_M,llama.cpp,--n-cpu-moe 30,28\n'
    )
    assert main([row(folder, text, "rows.csv")]) == 0
    assert "after 1 rows" in capsys.readouterr().out  # the second one after the first
    assert len({own.machine for own in kept_rows()}) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("decode_tok_s: 30.2", "decode_tok_s: -3"), "decode_tok_s='-3': must be tokens per second above 0"),
        (("decode_tok_s: 30.2", "decode_tok_s: fast"), "decode_tok_s='fast': must be tokens per second above 0"),
        (("decode_tok_s: 30.2\n", ""), "decode_tok_s is missing: a row needs machine_id, model, runtime, decode_tok_s"),
        (("decode_tok_s", "tokens_per_s"), "'tokens_per_s' is no field of a row"),
        (("runtime: llama.cpp", "runtime: [a]"), "runtime=.*: must be a text or a number"),
        (("gpt_oss_20b", "gpt_oss_21b"), "model=gpt_oss_21b is not known"),
        (("rtx3060_ddr4", "a toaster"), "hardware=a toaster: 'a toaster' is not known"),
        (("--n-cpu-moe 10", ""), "what was resident where is not stated .placement_value must be all resident"),
        (("context: 4096", "batch: 8"), "several requests at once"),
        (("context: 4096", "draft_length: 3"), "speculation"),
        (("context: 4096", "hit_rate: 2"), "hit_rate='2': must be a share from 0 to 1"),
    ],
)
def test_a_bad_row_is_one_sentence_and_nothing_is_kept(folder: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main([row(folder, ROW.replace(*change))])
    assert not kept_rows()


def test_the_same_row_is_not_kept_twice(folder: Path) -> None:
    main([row(folder)])
    with pytest.raises(UserError, match=r"stands in .* already"):
        main([row(folder)])
    assert len(kept_rows()) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nothing.yaml"], "there is no such file"),
        (["a", "b"], "takes one file, got 2"),
        (["remove=own.7"], "remove=own.7: must be the name of a row that is kept: none"),
        (["add=x"], "add=x is not known"),
    ],
)
def test_bad_words(argv: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(argv)


def test_a_file_names_a_machine_by_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert machine_key("mine.yaml") == machine_key(str(folder / "mine.yaml"))
    assert machine_key("RTX 4070,  Ryzen") == machine_key("rtx 4070, ryzen")
    assert machine_key("rtx4090") == "rtx4090"
