"""Every yaml of the group makes a network, the published one of the published size."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from sim.paths import CONF
from sim.predictors.inputs import Inputs, Shape
from sim.predictors.networks import make_network
from sim.predictors.settings import MoeBeyondSettings, TrainSettings, network_settings
from tests.support.small_predictors import request_trace, source_of

DEEPSEEK = Shape("deepseek_v2_lite", 26, 64, 6)


def settings_of(name):
    return network_settings(OmegaConf.to_container(OmegaConf.load(CONF / "predictor" / f"{name}.yaml")))[1]


def weights(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "predictor").glob("*.yaml")))
def test_every_yaml_trains_one_step(name):
    trace = request_trace()
    settings = settings_of(name)
    source = source_of(trace, settings)
    network = make_network(settings, Shape.of(trace), source.inputs, source.vocabulary.size)
    logits, _ = network(source.read(0, 5))
    assert logits.shape[0] == 5 and logits.shape[2:] == (4, 8)
    logits.sum().backward()


def test_the_published_size_is_that_of_torchs_own_encoder():
    """4 blocks of width 512 with 8 heads and 2048 inside; token and layer embeddings 2048 and 512, head 512 -> 64."""
    settings = settings_of("moe_beyond_paper")
    network = make_network(settings, DEEPSEEK, Inputs(True, False, None), 10)
    published = nn.TransformerEncoderLayer(512, 8, 2048)
    assert weights(network.encoder) == 4 * weights(published) == 12_609_536
    assert network.project.weight.shape == (512, 2048 + 512)
    assert network.out.shape == (1, 512, 64) and not network.layers.requires_grad
    assert (settings.dropout, settings.context) == (0.1, 512)


def test_defaults_of_yaml_and_class_agree():
    assert settings_of("moe_beyond") == MoeBeyondSettings()
    values = OmegaConf.load(CONF / "train_predictor.yaml").train
    assert TrainSettings(**values) == TrainSettings()
    assert (values.beta1, values.beta2, values.weight_decay, values.clip_norm, values.patience) == (
        0.9,
        0.98,
        0.01,
        1,
        3,
    )


def test_a_frozen_layer_embedding_is_not_trained_but_kept():
    settings = MoeBeyondSettings(**asdict(MoeBeyondSettings()) | {"learned_layers": False})
    torch.manual_seed(0)
    network = make_network(settings, DEEPSEEK, Inputs(True, False, None), 10)
    assert "layers" in network.state_dict()
    assert np.std(network.layers.numpy()) == pytest.approx(1, abs=0.1)
