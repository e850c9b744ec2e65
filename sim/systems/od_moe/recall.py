"""How often the shadow model of OD-MoE names the right expert, by token age, precision and alignment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.systems.od_moe.config import OdMoe
from traces.errors import UserError

MEASURED_FILE = Path(__file__).with_name("shadow_recall.json")
MODES = {(True, True): "token_kv", (True, False): "token", (False, True): "kv", (False, False): "none"}
"""Name in the measured file of (tokens aligned, K and V aligned)."""


def steps_since(period: int, num_steps: int) -> NDArray[np.int64]:
    """Steps since the last alignment at every decode step, [T]; period 0: since the prompt."""
    steps = np.arange(num_steps)
    return steps % period if period else steps


def published_recall(system: OdMoe, num_steps: int) -> NDArray[np.float64]:
    """Recall at every decode step, [T]: limit + (aligned - limit) exp(-n / decay), n steps since the alignment.

    What is aligned in each step has n = 0 throughout. If token and K and V both lag, the limit is the unaligned one and
    n the smaller of the two; if one of them lags, the limit is that of the other one alone. The paper publishes the
    aligned recall and the unaligned fall; the shape in between and what periods above 1 do are inferred.
    Source: OD-MoE, recall by token index (https://arxiv.org/abs/2512.03927).
    """
    token, kv = steps_since(system.token_period, num_steps), steps_since(system.kv_period, num_steps)
    limit = np.where(kv > 0, system.recall_limit_token, system.recall_limit_kv)
    limit = np.where((token > 0) & (kv > 0), system.recall_limit_unaligned, limit)
    lag = np.where((token > 0) & (kv > 0), np.minimum(token, kv), np.maximum(token, kv))
    aligned = system.aligned_recall
    return np.asarray(limit + (aligned - limit) * np.exp(-lag / system.recall_decay_steps), np.float64)


def measured_recall(system: OdMoe, num_steps: int, path: Path = MEASURED_FILE) -> NDArray[np.float64]:
    """Recall at every decode step as it was MEASURED on the demo model, [T]; the last range of ages goes on.

    Raises: UserError for periods above 1, which were not measured.
    """
    if max(system.token_period, system.kv_period) > 1:
        raise UserError(
            f"system.token_period={system.token_period}, system.kv_period={system.kv_period}: "
            "recall=measured knows alignment in each step (1) or never (0)"
        )
    content: dict[str, Any] = json.loads(path.read_text())
    curve = content["recall"][system.precision][MODES[system.token_period == 1, system.kv_period == 1]]
    last = np.asarray(content["age_last"])  # the last age of each range
    ranges = np.minimum(np.searchsorted(last, np.arange(1, num_steps + 1)), len(last) - 1)
    return np.asarray(curve["mean"], np.float64)[ranges]


def recall_by_step(system: OdMoe, num_steps: int, top_k: int, num_experts: int) -> NDArray[np.float64]:
    """Recall at every decode step, [T], under the configured prediction; 0 where nothing is predicted."""
    constant = {"perfect": 1.0, "random": top_k / num_experts, "none": 0.0}
    if system.prediction in constant:
        return np.full(num_steps, constant[system.prediction])
    if system.fixed_recall is not None:
        return np.full(num_steps, system.fixed_recall)
    return (measured_recall if system.recall == "measured" else published_recall)(system, num_steps)


def wrong_loads(
    system: OdMoe, recall: NDArray[np.float64], layers: int, top_k: int, num_experts: int, seed: int
) -> NDArray[np.bool_]:
    """Whether a worker of the group is told the wrong expert, [T, L, k].

    A shadow errs for every expert on its own; a random prediction draws k of E experts without replacement.
    """
    random = np.random.default_rng((system.seed, seed))
    shape = (len(recall), layers, top_k)
    if system.prediction != "random":
        return random.random(shape) >= recall[:, None, None]
    right = random.hypergeometric(top_k, num_experts - top_k, top_k, shape[:2])
    return np.asarray(np.arange(top_k) >= right[..., None])
