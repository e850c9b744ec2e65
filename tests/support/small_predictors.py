"""Small traces of requests, and untrained predictors for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim.config import TraceConfig
from sim.predictors.checkpoint import Checkpoint, write_checkpoint
from sim.predictors.inputs import RowSource, Shape, choose_inputs, vocabulary_of
from sim.predictors.networks import Network, make_network, tensors_of
from sim.predictors.settings import MoeBeyondSettings, PromoeSettings, Settings, TrainSettings
from sim.predictors.split import fingerprint, split_requests
from tests.support.random_traces import random_trace
from traces.format.trace import Trace

SIZES: dict[str, Any] = {"width": 8, "token_width": 6, "layer_width": 4, "heads": 2, "feed_forward": 16}
KINDS: dict[str, Settings] = {
    "tokens": MoeBeyondSettings("tokens", **SIZES, head_width=8, context=4, min_count=1),
    "experts": MoeBeyondSettings("experts", **SIZES, head_width=8, context=4, layer_heads=False),
    "both": MoeBeyondSettings("both", **SIZES, head_width=8, context=64, min_count=1, learned_layers=False),
    "promoe": PromoeSettings(stride=2, hidden=8),
    "promoe_bare": PromoeSettings(stride=3, hidden=8, previous=False),
}


def request_trace(seed: int = 0, requests: int = 4, **changes: Any) -> Trace:
    """A random trace of several requests with token ids 0 to 9."""
    prompts, decodes = tuple(3 + i % 3 for i in range(requests)), tuple(6 + i % 4 for i in range(requests))
    trace = random_trace(seed, num_layers=4, prompts=prompts, decodes=decodes)
    tokens = np.random.default_rng(seed + 1).integers(0, 10, trace.num_tokens).astype(np.int32)
    return replace(trace, token_ids=tokens, **changes)


def source_of(trace: Trace, settings: Settings, as_decode: bool = False) -> RowSource:
    """The rows of a trace as a predictor with these settings reads them, all token ids known."""
    inputs = choose_inputs(settings, trace)
    vocabulary = vocabulary_of(trace, tuple(range(trace.num_requests)) if inputs.tokens else (), 1)
    return RowSource(trace, inputs, vocabulary, as_decode)


def network_of(source: RowSource, settings: Settings, seed: int = 0) -> Network:
    """An untrained network, its output drawn wide so that differences show."""
    torch.manual_seed(seed)
    network = make_network(settings, Shape.of(source.trace), source.inputs, source.vocabulary.size)
    with torch.no_grad():
        network.out.mul_(3.0)
    return network.eval()


def untrained(trace: Trace, settings: Settings, path: Path, fit_requests: int = 2) -> Path:
    """A checkpoint of random weights that claims to have learned from the last requests of ``trace``."""
    source = source_of(trace, settings)
    train = TrainSettings()
    split = split_requests(trace.num_requests, TraceConfig("demo", fit_requests=fit_requests), 0.2, train.seed)
    record = {
        "trace_hash": trace.content_hash,
        "num_requests": trace.num_requests,
        "train": list(split.train),
        "validation": list(split.validation),
        "test": list(split.test),
        "fingerprints": [fingerprint(trace, request) for request in split.learned],
        "metrics": {},
    }
    kind = "moe_beyond" if isinstance(settings, MoeBeyondSettings) else "promoe_mlp"
    weights = tensors_of(network_of(source, settings))
    write_checkpoint(
        path, Checkpoint(kind, settings, Shape.of(trace), source.inputs, source.vocabulary, weights, record)
    )
    return path
