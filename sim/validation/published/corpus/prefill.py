"""How fast a prompt is read: arithmetic, weights, and copies of the CPU's experts once a chunk, beside published rates.

llama.cpp and its kin read a prompt in chunks, for each of which the experts that lie in host memory cross the link;
where everything is on the GPU nothing does. imp's cache is taken as cold: a chunk asks for every expert. One factor is
FITTED, the geometric mean over families of machines; each family is predicted by the others. Rows of low confidence are
left out, as for decoding. Prompts that a CPU computes (KTransformers) and experts that are streamed are not expressed:
too few machines are published.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.machine.model import (
    attention_parameters,
    expert_parameters,
    geometry,
    read_every_token_bytes,
    shared_parameters,
)
from sim.validation.published.corpus.held_out import families
from sim.validation.published.corpus.parts import Rates, rates_of
from sim.validation.published.corpus.placement import CPU_EXPERTS, LINK_CACHE, RESIDENT, placement_of
from sim.validation.published.corpus.rule import (
    GRAPHS,
    IMP,
    LLAMA,
    Setting,
    batch_of,
    model_of,
    runtime_class,
    several_gpus,
)
from sim.validation.published.corpus.tables import Corpus, Measurement

CHUNK = 512
"""Tokens of a chunk where a row does not say (llama.cpp's -ub)."""
SHORTEST = 256
"""Prompts below this say nothing of the rate."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A published prefill rate beside the terms of the model, both as seconds of a token."""

    setting: Setting
    measured_s: float
    terms_s: float
    family: str
    others: float
    """Factor on the terms that the other families have."""

    @property
    def log_error(self) -> float:
        """Logarithm of predicted over measured tokens per second."""
        return math.log(self.measured_s / (self.terms_s * self.others))


def expressible(runtime: str, kind: str) -> bool:
    """Whether the prompt's time of such a plan can be said."""
    copied = (runtime == LLAMA and kind == CPU_EXPERTS) or (runtime == IMP and kind == LINK_CACHE)
    return copied or (runtime in (LLAMA, GRAPHS, IMP) and kind == RESIDENT)


def prompt_s(setting: Setting, tokens: int, chunk: int = CHUNK) -> float:
    """Seconds of a prompt's terms at nominal rates. The GPU's arithmetic, then for each chunk weights and copies."""
    model, rates, sizes = setting.model, setting.rates, geometry(setting.model)
    assert sizes.expert_bytes and rates.gpu is not None and rates.gpu_bytes_per_s is not None
    layer = model.top_k * expert_parameters(model) + attention_parameters(model) + shared_parameters(model)
    arithmetic = 2.0 * model.num_layers * layer * tokens / (1e12 * rates.gpu.fp16_tflops)
    experts = model.num_experts * float(sum(sizes.expert_bytes))
    rest = read_every_token_bytes(sizes)
    place = setting.placement
    away = place.cpu_layers / model.num_layers if place.cpu_layers else 1 - place.gpu_share
    away = {CPU_EXPERTS: away, LINK_CACHE: 1.0}.get(place.kind, 0.0)
    chunks = math.ceil(tokens / chunk)
    read = chunks * (experts + rest) / rates.gpu_bytes_per_s
    copied = chunks * away * experts / rates.link_bytes_per_s if away and rates.link_bytes_per_s else 0.0
    return arithmetic + read + copied


def prompts_of(corpus: Corpus) -> list[Prompt]:
    """Every published prefill rate that can be expressed."""
    settings = [
        setting
        for row in corpus.rows
        if (setting := _setting(row, rates_of(corpus.machines[row.machine_id]))) is not None
    ]
    family = families(settings)
    terms = [(setting, *_seconds(setting), family[setting.row.machine_id]) for setting in settings]
    return [
        Prompt(setting, measured, expected, own, factor_of([(m, t, f) for _, m, t, f in terms if f != own]))
        for setting, measured, expected, own in terms
    ]


def factor_of(pairs: Sequence[tuple[float, float, str]]) -> float:
    """Geometric mean over families of measured over expected seconds; 1 without any."""
    found: dict[str, list[float]] = {}
    for measured, expected, family in pairs:
        found.setdefault(family, []).append(math.log(measured / expected))
    return float(np.exp(np.mean([np.mean(logs) for logs in found.values()]))) if found else 1.0


def _seconds(setting: Setting) -> tuple[float, float]:
    """(measured, expected) seconds of a token."""
    row = setting.row
    chunk = re.search(r"-ub (\d{1,6})", row.flags)
    tokens = setting.context or CHUNK
    assert row.prefill_tok_s is not None
    return 1.0 / row.prefill_tok_s, prompt_s(setting, tokens, int(chunk[1]) if chunk else CHUNK) / tokens


def _setting(row: Measurement, rates: Rates) -> Setting | None:
    if row.prefill_tok_s is None or batch_of(row) != 1 or several_gpus(row, rates, row.words):
        return None
    if row.confidence == "low":
        return None
    sizes = model_of(row)
    if isinstance(sizes, str) or rates.gpu is None or rates.gpu_bytes_per_s is None or not rates.gpu.fp16_tflops:
        return None
    known, model = sizes
    placement, runtime = placement_of(row, model), runtime_class(row.runtime)
    if placement is None or not expressible(runtime, placement.kind) or rates.unified:
        return None
    if placement.kind in (CPU_EXPERTS, LINK_CACHE) and rates.link_bytes_per_s is None:
        return None
    stated = re.search(r"pp ?(\d{2,6})", f"{row.context} {row.flags}".lower())
    tokens = int(stated[1]) if stated else CHUNK
    return None if tokens < SHORTEST else Setting(row, known, model, placement, rates, tokens, runtime, 1, None)
