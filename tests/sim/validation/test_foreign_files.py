"""Published tables and the files of a validation that are no such thing: one sentence, no waiting, no traceback."""

import json
import os
import shutil

import pytest

from sim.paths import ROOT
from sim.validation.live import analyse
from sim.validation.published.big_moe_on_edge.telemetry import read_telemetry
from sim.validation.published.measurements.kernel_term import read_kernel_rows
from sim.validation.published.measurements.terms import read_published
from sim.validation.published.mixtral_offloading.table import read_runs
from traces.errors import UserError

READERS = {
    "runs": read_runs,
    "terms": read_published,
    "kernels": lambda path: read_kernel_rows(path, "qwen3_30b_a3b"),
    "telemetry": read_telemetry,
}
MADE = {
    "is a FIFO": os.mkfifo,
    "is a folder": os.mkdir,
    "no such file": lambda path: path.symlink_to("nowhere"),
    "is not UTF-8 text": lambda path: path.write_bytes(b"gpu,\xff\n"),
    "lacks the column": lambda path: path.write_bytes(b"\0,\0\n"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("said", MADE)
def test_what_is_no_table_is_refused(said, reader, tmp_path):
    path = tmp_path / "a.csv"
    MADE[said](path)
    with pytest.raises(UserError, match=said) as refused:
        READERS[reader](path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.pop("settings"),
        lambda plan: plan.update(repeats="x"),
        lambda plan: plan.update(real=7),
        lambda plan: plan.update(pairs=[["a"]]),
        lambda plan: plan["settings"][0].update(slots=None),
        lambda plan: plan["calibration"].pop(),
    ],
)
def test_what_is_no_plan_is_refused(change, tmp_path):
    cpu = ROOT / "docs" / "validation" / "cpu"
    for name in ("runs.json", "tokens.parquet"):
        shutil.copy(cpu / name, tmp_path)
    content = json.loads((cpu / "plan.json").read_text())
    change(content["plan"])
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"plan\.json"):
        analyse(tmp_path, 0.5, 10)


@pytest.mark.parametrize("runs", [7, [7], [{"setting": "a"}], [{"layer_ns": "x"}]])
def test_runs_that_are_none_are_refused(runs, tmp_path):
    cpu = ROOT / "docs" / "validation" / "cpu"
    for name in ("plan.json", "tokens.parquet"):
        shutil.copy(cpu / name, tmp_path)
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    with pytest.raises(UserError, match=r"broken|a run of a validation"):
        analyse(tmp_path, 0.5, 10)
