"""Routing of the untouched model over a few windows: what rules learn from, and how the router makes weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.quality.windows import Windows
from traces.format.trace import PREFILL, Trace
from traces.recording.collected import Collector
from traces.recording.loading import LoadedModel
from traces.recording.measured_geometry import measure_geometry
from traces.recording.similarity import SimilaritySample

if TYPE_CHECKING:
    from traces.recording.moe_layers import MoELayer

SIMILARITY_TOKENS = 512


def record_windows(loaded: LoadedModel, windows: Windows, similarity: bool, seed: int) -> tuple[Trace, Any]:
    """(a teacher-forced trace of the windows in full precision, the model's MoE layers)."""
    import torch

    sample = SimilaritySample(SIMILARITY_TOKENS, seed) if similarity else None
    collector = Collector(loaded.model, True, sample)
    device = next(loaded.model.parameters()).device
    with torch.no_grad(), collector:
        for tokens, domain in zip(windows.tokens, windows.domains, strict=True):
            collector.start_request(len(tokens), domain)
            loaded.model(input_ids=torch.from_numpy(tokens[None]).to(device), use_cache=False)
            collector.end_step(tokens.tolist(), PREFILL)
    layers: tuple[MoELayer, ...] = collector.layers
    geometry = measure_geometry(loaded.model, layers, loaded.source)
    return collector.trace(geometry, {"forcing": "teacher"}, top_k_extra=None, half=False), layers
