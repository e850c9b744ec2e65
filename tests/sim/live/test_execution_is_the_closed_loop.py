"""A model in slots executes substitutes with the weights that the closed loop gives them, whatever its router does."""

from dataclasses import replace

import numpy as np
import pytest

from policies.state import PREFILL
from policies.substitution.replace_all_missing import ReplaceAllMissing
from policies.substitution.skip import Skip
from sim.assembly.replay import DeviceSetup
from sim.execution.generate import generate
from sim.execution.settings import RealSettings
from sim.live.weights import GateRule
from sim.machine.capacity import CacheConfig
from sim.quality.decode import CoSimulation
from sim.quality.loop import Variant
from tests.sim.quality.small import study_of
from tests.support.replays import BARE, machine
from tests.support.tiny_models import build
from traces.recording.moe_layers import find_moe_layers

PROMPT, NEW, SLOTS = [5, 17, 200, 3, 44, 9, 120], 6, 3
ROUTERS = {
    "olmoe": GateRule("softmax", renormalises=False),
    "mixtral": GateRule("softmax", renormalises=True),
    "deepseek_v3": GateRule("sigmoid", renormalises=True),
}
RULES = {"substitute": ReplaceAllMissing(), "drop": Skip(alpha=1.0, without_substitute=True)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ROUTERS)
def test_logits_are_those_of_the_closed_loop(family, rule):
    model, policy = build(family), replace(BARE, name=rule, substitution=RULES[rule])
    assert GateRule.of_layers(find_moe_layers(model)) == ROUTERS[family]
    settings, cache = RealSettings(link_bytes_per_s=None), CacheConfig(slots_per_layer=SLOTS)
    live = generate(model, [PROMPT], NEW, DeviceSetup(policy, machine(), cache), settings)
    columns = live.run.columns
    assert columns["substituted_ranks"].sum() + columns["dropped_ranks"].sum() > 0
    scheme = ROUTERS[family].best_scheme
    study = study_of(family, policy, slots=SLOTS, weights=scheme)
    with CoSimulation(study.loop, [Variant("policy", scheme=scheme)]) as closed:
        logits = [closed.step(np.array([PROMPT]), PREFILL)[0, -1]]
        logits += [closed.step(np.array([[token]]))[0, -1] for token in live.tokens[0][:-1]]
    np.testing.assert_allclose(live.logits[0], np.stack(logits), rtol=0, atol=1e-5)
