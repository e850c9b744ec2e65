"""Published beside simulated: which claims fit which settings, and the error."""

import json

import pytest

from sim.figures.drawing import MissingData
from sim.report.system_runs import lines, system_runs

FOUR = {
    "model": "mixtral_8x7b", "prediction": "shadow", "token_period": 1, "kv_period": 1, "workload": "published",
    "prompt_tokens": None, "new_tokens": None,
}  # fmt: skip


def test_claims_stand_beside_the_settings_they_were_published_for():
    metrics = {"tokens_per_s": 3.69 * 1.1, "ttft_s.mean": 1.122, "gpu_memory_bytes": 60e9}
    found = {line.name: line for line in lines("od_moe", FOUR, metrics)}
    assert found["decode, tokens/s, mean of four settings"].error == "+10.0 %"
    assert found["TTFT, ms"].error == "-50.0 %"
    assert found["GPU memory of all nodes, GB"].simulated == "60"
    assert found["output, tokens/s, time to first token included"].simulated == "–"
    ablation = FOUR | {"prompt_tokens": 64, "new_tokens": 513, "kv_period": 0}
    names = [line.name for line in lines("od_moe", ablation, metrics)]
    assert names[0] == "ablation, tokens/s, token aligned"
    assert not any("four settings" in name for name in names)
    assert not list(lines("od_moe", FOUR | {"model": "trace"}, metrics))


def test_a_range_is_met_or_not():
    inside, outside = lines("expert_streaming", {}, {"speedup": 1.5, "sram_saved": 0.9})
    assert (inside.published, inside.error) == ("1.22 to 2", "within the range")
    assert (outside.simulated, outside.error) == ("90", "outside the range")


def test_runs_of_a_system_are_found_by_their_provenance(tmp_path):
    for name, provenance in (
        ("a", {"system": "od_moe", "config": FOUR, "label": "SIMULATED"}),
        ("b", {"policy": "lru"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "provenance.json").write_text(json.dumps(provenance))
        (tmp_path / name / "metrics.json").write_text('{"tokens_per_s": 3.6, "model": "x"}')
    (run,) = system_runs(tmp_path)
    assert (run.system, run.label, run.metrics) == ("od_moe", "SIMULATED", (("tokens_per_s", "3.6"),))


def test_figures_leave_such_runs_out(tmp_path, sweep):
    import shutil

    from sim.figures.run_table import study

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "provenance.json").write_text(json.dumps({"system": "od_moe", "label": "SIMULATED"}))
    (tmp_path / "a" / "metrics.json").write_text("{}")
    with pytest.raises(MissingData, match="python -m sim report"):
        study(tmp_path)
    shutil.copytree(sweep / "lru_2", tmp_path / "lru_2")
    assert list(study(tmp_path)["policy"]) == ["lru"]
