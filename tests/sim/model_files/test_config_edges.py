"""Every value of a config.json at the edge of its kind: sizes that a replay can work with, or one sentence."""

import copy
import json
import re

import pytest

from sim.machine.model import dimensions_from_config, geometry
from sim.model_files.config_json import read_config_json
from tests.sim.model_files.released_configs import CONFIGS
from traces.errors import UserError

EDGES = (
    -1, 0, 1, 2, 3, 255, 65535, 65536, 2**24, 2**24 + 1, 2**31, 2**40, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 1.0, 1.5,
    True, False, None, "8", "", "x" * 5000, [], [1], [8, 8], [[8]], {}, {"a": 1}, float("nan"), float("inf"), "auto",
)  # fmt: skip
NAMES = ("nemotron_3_nano_30b_a3b", "gemma_4_26b_a4b")
MORE = ("deepseek_v3_2", "qwen3_next_80b_a3b", "deepseek_v4_flash")


def places(config, at=()):
    """Where a value stands, inside of other values too; of lists, the list itself."""
    for name, value in config.items():
        yield (*at, name)
        if isinstance(value, dict):
            yield from places(value, (*at, name))


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_each_value_at_each_edge(name, tmp_path):
    path, refused = tmp_path / "config.json", 0
    for place in places(CONFIGS[name]):
        for edge in EDGES:
            config = copy.deepcopy(CONFIGS[name])
            inner = config
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = edge
            path.write_text(json.dumps(config))
            try:
                values = read_config_json(path)
                found = geometry(dimensions_from_config(values))
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 600, (place, edge)
                continue
            sizes = (*found.expert_bytes, *found.attention_bytes, found.other_bytes, found.kv_bytes_per_token)
            assert min(sizes) >= 0 and max(sizes) < 2**62, (place, edge)
            states = re.search(r"(\d+) of \1 layers keep a state", values["source"])  # none is never silent
            assert found.kv_bytes_per_token > 0 or states or place[-1] == "num_hidden_layers", (place, edge)
    assert refused > 100


def test_absurd_numbers_are_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    for field, value, said in (
        ("num_experts", 2**40, "num_experts=1099511627776: must be between 1 and 65535"),
        ("num_experts", 2**63 - 1, "num_experts=9223372036854775807: must be a whole number from 0 to"),
        ("hidden_size", 2**30, "hidden_size=1073741824: must be between 1 and 16777216"),
        ("num_attention_heads", "16", "num_attention_heads='16': must be a whole number"),
        ("moe_intermediate_size", float("nan"), "moe_intermediate_size=nan: must be a whole number"),
    ):
        path.write_text(json.dumps(CONFIGS["qwen3_next_80b_a3b"] | {field: value}))
        with pytest.raises(UserError, match=said):
            dimensions_from_config(read_config_json(path))
