"""What the configuration system refuses is one sentence that names the nearest known word."""

import pytest

from sim.assembly.build import make_part
from sim.assembly.compose import compose_run
from sim.config import RunConfig, validate
from sim.errors import one_line
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from traces.errors import UserError


def test_a_key_far_from_all_others_is_answered_with_the_known_ones():
    with pytest.raises(Exception) as caught:
        compose_run("engine.zzz=1")
    assert one_line(caught.value) == "engine.zzz is not a key of the configuration: known are name"


@pytest.mark.parametrize("override", ["cache.fraction", "cache.fraction=[0.5", "a b=3"])
def test_an_override_that_cannot_be_read_is_quoted(override):
    with pytest.raises(Exception) as caught:
        compose_run(override)
    said = one_line(caught.value)
    assert said.startswith(f"{override} cannot be read as an override: ") and "https" not in said


def test_our_own_sentence_is_kept_whatever_caused_it():
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise UserError("the sentence") from error
    except UserError as error:
        assert one_line(error) == "the sentence"


@pytest.mark.parametrize(("cls", "knob"), [(CacheConfig, "bytes"), (RunConfig, "batch_size"), (RunConfig, "seed")])
def test_whole_numbers_that_no_engine_can_count_are_refused(cls, knob):
    with pytest.raises(UserError, match=f"{knob}=1000"):
        validate(cls, {knob: 10**400})


def test_a_figure_that_no_float_holds_is_refused():
    from dataclasses import replace

    with pytest.raises(UserError, match="must be a finite number"):
        replace(load_hardware("s1_rtx3080ti"), link_bytes_per_s=10**400)


@pytest.mark.parametrize("target", ["os.system", "os", "nope.Nope", "", "x" * 5000, "policies.eviction.lru"])
def test_a_target_that_is_no_rule_is_one_sentence_and_nothing_else(target, capfd):
    from omegaconf import OmegaConf

    with pytest.raises(UserError, match=r"policy\.eviction\._target_"):
        make_part("eviction", OmegaConf.create({"policy": {"eviction": {"_target_": target}}}).policy.eviction)
    assert not capfd.readouterr().err
