"""A trace ten times as long does not need more memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.random_traces import random_trace
from traces.format.files import write_trace

STATUS = Path("/proc/self/status")
# Not resource.getrusage: there a child process begins with its parent's peak.
REPLAY = f"""
import sys
from pathlib import Path
from sim.metrics.step_table import StepTable
from sim.results.table_file import TableFile
from tests.support.replays import replay_of
from traces.format.files import read_trace
trace = read_trace(sys.argv[1])
with TableFile(Path(sys.argv[1]).with_suffix(".parquet")) as steps:
    table = StepTable(replay_of(trace, sys.argv[2], slots_per_layer=8, engine="compiled"), steps)
    table.run()
assert table.metrics()["hit_rate"] > 0
print(next(line for line in Path("{STATUS}").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""


def peak_bytes(path, policy):
    """Highest memory of a process that reads, checks and replays a trace file."""
    command = [sys.executable, "-c", REPLAY, str(path), policy]
    return 1024 * int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def trace_file(folder, requests):
    """Requests of 100 tokens with scores: some 0.7 kB per token."""
    trace = random_trace(0, 4, 16, 2, prompts=(20,) * requests, decodes=(80,) * requests)
    return write_trace(folder / f"{requests}.safetensors", trace), folder / f"{requests}.safetensors"


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="only Linux shows the peak of a process by itself")
@pytest.mark.parametrize("policy", ["lru", "belady"])
def test_ten_times_the_tokens_add_at_most_5_percent(tmp_path, policy):
    (_, short), (trace, long) = (trace_file(tmp_path, requests) for requests in (200, 2000))
    peak_bytes(short, policy)  # compiles
    once, often = peak_bytes(short, policy), peak_bytes(long, policy)
    read = trace.topk_ids.nbytes + trace.router_logits.values.nbytes  # if all that is read stayed in memory
    assert read > 0.1 * once
    assert often <= 1.05 * once
