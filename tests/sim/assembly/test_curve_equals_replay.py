"""The one-pass miss curve against replays at every capacity."""

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.state import DECODE, PREFILL
from sim.metrics.step_table import StepTable
from tests.support.random_traces import random_trace
from tests.support.replays import replay_of
from traces.statistics.miss_curve import lru_miss_curve


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), min_size=1, max_size=3),
    skew=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_hits_of_every_capacity_equal_those_of_a_replay(seed, lengths, skew):
    prompts, decodes = zip(*lengths, strict=True)
    trace = random_trace(seed, prompts=prompts, decodes=decodes, skew=skew)
    curve = lru_miss_curve(trace)
    for slots in range(1, trace.num_experts + 1):
        table = StepTable(replay_of(trace, "lru", slots_per_layer=slots))
        table.run()
        columns = table.columns()
        for phase in (PREFILL, DECODE):
            chosen = columns["phase"] == phase
            assert columns["hits"][chosen].sum() == curve.hits[phase, :, slots].sum()
            assert columns["demanded"][chosen].sum() == curve.demands[phase].sum()
