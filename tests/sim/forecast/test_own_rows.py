"""Rows of one's own: checked, kept, predicted, and what they do to the next forecast."""

import re
from pathlib import Path

import pytest

from sim.commands.measured import main
from sim.forecast.answer import answer
from sim.forecast.ask import Ask
from sim.forecast.models import read_model
from sim.forecast.own_rows import kept_rows, machine_key, rows_of, setting_of
from sim.forecast.plans import plans_for
from sim.forecast.predict import forecast, most_tokens_per_s
from sim.forecast.read_machine import read_machine
from sim.forecast.screen import screen
from sim.forecast.shipped import shares_of, shipped_parameters
from sim.machine.model import geometry
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
    assert "own.1  gpt_oss_20b on rtx3060_ddr4:\n       30.2 tokens/s MEASURED; predicted" in said
    assert "without any row of yours" in said
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
    assert "after 1 row of yours:" in capsys.readouterr().out  # the second one after the first
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


OTHER = ROW.replace("decode_tok_s: 30.2", "decode_tok_s: {}")


def test_what_no_bandwidth_allows_is_refused_and_what_is_far_off_must_be_forced(folder: Path) -> None:
    for argv in ([row(folder, OTHER.format(440))], [row(folder, OTHER.format(440)), "force=true"]):
        with pytest.raises(UserError, match="no software reaches it"):
            main(argv)
    with pytest.raises(UserError, match=r"far outside the forecast .*force=true keeps it"):
        main([row(folder, OTHER.format(4))])
    assert not kept_rows()
    assert main([row(folder, OTHER.format(4)), "force=true"]) == 0


def test_the_most_that_bandwidth_allows_is_bytes_over_nominal_rates(folder: Path) -> None:
    machine = read_machine("RTX 4070, Ryzen 7 7700, 2ch DDR5-5600, 64 GB RAM", shares_of(shipped_parameters()))
    model = read_model("qwen3_30b_a3b_q4", None)
    plans, _ = plans_for(Ask(model, machine, None, 0, 1.5e9, placement="CPU only"), ["llama_cpp"])
    sizes = geometry(model.dimensions)
    assert sizes.expert_bytes and sizes.attention_bytes and sizes.other_bytes is not None
    read = 8 * sum(sizes.expert_bytes) + sum(sizes.attention_bytes)
    assert most_tokens_per_s(plans[0].setting) < 1.1 * 89.6e9 / read  # and the head's weights on top
    assert most_tokens_per_s(plans[0].setting) > 0.8 * 89.6e9 / read


def test_rows_that_disagree_widen_the_interval(folder: Path) -> None:
    machine = read_machine("rtx3060_ddr4", shares_of(shipped_parameters()))
    widths = []
    for second in (31, 55):
        main([row(folder)])
        main([row(folder, OTHER.format(second))])
        rows = rows_of(machine, "rtx3060_ddr4")
        found = forecast(rows[0], rows)
        widths.append(found.high / found.low)
        for own in kept_rows():
            main([f"remove={own.row.row_id}"])
    assert widths[1] > 1.5 * widths[0]


def test_a_plan_that_rows_moved_out_of_the_first_place_is_named(folder: Path) -> None:
    machine = read_machine("rtx3060_ddr4", shares_of(shipped_parameters()))
    main([row(folder)])
    main([row(folder, OTHER.format(3)), "force=true"])
    ask = Ask(read_model("gpt_oss_20b", None), machine, None, 4096, 1.5e9)
    said = screen(answer(ask, ["llama_cpp"], rows_of(machine, "rtx3060_ddr4")))
    assert re.search(r"your rows +\d+ -> \d+ by own.1 \(gpt_oss_20b\), own.2 \(gpt_oss_20b\)", said)


def test_a_row_of_another_model_moves_the_figure_and_not_the_interval(folder: Path) -> None:
    machine = read_machine("rtx3060_ddr4", shares_of(shipped_parameters()))
    main([row(folder, OTHER.format(20))])
    rows = rows_of(machine, "rtx3060_ddr4")
    plans, _ = plans_for(Ask(read_model("qwen3_30b_a3b_q4", None), machine, None, 4096, 1.5e9), ["llama_cpp"])
    before, after = forecast(plans[0].setting, ()), forecast(plans[0].setting, rows)
    assert after.tokens_per_s < before.tokens_per_s == pytest.approx(after.plain)
    assert after.high / after.low == pytest.approx(before.high / before.low)
    assert after.rows == ("own.1 (gpt_oss_20b)",)
    assert after.as_wide
    found = answer(Ask(read_model("qwen3_30b_a3b_q4", None), machine, None, 4096, 1.5e9), ["llama_cpp"], rows)
    said = screen(found)
    assert re.search(r"your rows +\d+ -> [\d.]+ by own.1 \(gpt_oss_20b\), x0\.\d\d; another model's", said)


def test_ratios_of_what_would_help_are_free_of_rows(folder: Path) -> None:
    machine = read_machine("rtx3060_ddr4", shares_of(shipped_parameters()))
    ask = Ask(read_model("gpt_oss_20b", None), machine, None, 4096, 1.5e9)
    without = answer(ask, ["llama_cpp"], ())
    main([row(folder, OTHER.format(20))])
    rows = rows_of(machine, "rtx3060_ddr4")
    found = answer(ask, ["llama_cpp"], rows)
    assert [change.ratio for change in found.changes] == [change.ratio for change in without.changes]
    before = {change.what: change.tokens_per_s for change in without.changes}
    after = {change.what: change.tokens_per_s for change in found.changes}
    assert (after["RAM twice as fast"] or 0) < (before["RAM twice as fast"] or 0)
    assert "ratios: both sides without your rows" in screen(found)
    assert "ratios: both sides" not in screen(without)


def test_a_row_of_one_plan_moves_what_the_parts_reach_in_others(folder: Path) -> None:
    """A slow row with experts in RAM makes RAM slower for KTransformers, too, not its software; the order holds."""
    machine = read_machine("rtx3060_ddr4", shares_of(shipped_parameters()))
    ask = Ask(read_model("qwen3_30b_a3b_q4", None), machine, None, 4096, 1.5e9)
    main([row(folder, OTHER.format(12)), "force=true"])
    rows = rows_of(machine, "rtx3060_ddr4")
    plain, found = (answer(ask, ["llama_cpp", "ktransformers"], some) for some in ((), rows))
    by_name = [{one.plan.what: one.forecast for one in each.rated} for each in (plain, found)]
    for what, told in by_name[1].items():
        before = by_name[0][what]
        assert told.moved
        assert told.tokens_per_s < before.tokens_per_s
        if told.rows_before == 0:
            assert told.other_rows == 1
            assert told.tokens_per_s > before.tokens_per_s * 12 / 40  # by less than the row's own kind
            assert told.high / told.low >= before.high / before.low
    assert found.best.plan.runtime == plain.best.plan.runtime
    only = answer(ask, ["ktransformers"], rows)
    assert "of other plans: by what the parts reach, not its software" in " ".join(screen(only).split())


def test_parts_are_one_machine_in_any_order_and_one_measurement_is_one_row(folder: Path) -> None:
    names = (
        "RTX 3060, i5-12400, 2ch DDR4-3200, 64 GB RAM",
        "64 GB dual-channel DDR4-3200, i5-12400, rtx 3060",
        "i5-12400 + RTX 3060 12GB + 2ch DDR4-3200 + 5 GB/s ssd",
    )
    assert len({machine_key(words) for words in names}) == 1
    assert machine_key(names[0]) != machine_key("RTX 3060, i5-12400, 1ch DDR4-3200, 64 GB RAM")
    text = ROW.replace("rtx3060_ddr4", names[0]).replace("gpt_oss_20b", "qwen3_30b_a3b_q4")
    main([row(folder, text)])
    again = text.replace(names[0], names[1]).replace("qwen3_30b_a3b_q4", "Qwen3-30B-A3B\nquantisation: Q4_K_M")
    with pytest.raises(UserError, match="already"):
        main([row(folder, again)])


def test_a_row_without_a_context_says_what_is_assumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([row(folder, ROW.replace("context: 4096\n", ""))]) == 0
    said = capsys.readouterr().out
    assert "no context: 0 tokens assumed" in said
    assert "remove=own.1" in said


def test_the_row_of_the_readme_is_believed(folder: Path) -> None:
    text = Path("README.md").read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    assert main([row(folder, text)]) == 0
    hardware = kept_rows()[0].row.machine_id
    assert f"hardware='{hardware}'" in Path("README.md").read_text()
