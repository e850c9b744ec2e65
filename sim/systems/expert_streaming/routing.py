"""Which experts each token wants: rows of a trace, or draws from a stated popularity; and which tokens may wait."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.machine.model import load_dimensions, model_names
from traces.errors import UserError
from traces.format.mapped import gather
from traces.format.ranks import refuse_fewer
from traces.format.trace import Trace


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that matter here; shared experts and attention are left out of this system."""

    hidden_size: int
    ffn: int
    num_experts: int
    top_k: int
    source: str


SHAPES = {
    "yuan_2_0_m32": Shape(2048, 8192, 32, 2, "huggingface IEITYuan/Yuan2-M32 config.json"),
    "phi_3_5_moe_code": Shape(4096, 3200, 16, 2, "github Man0xbfc00380/MoeOpt model_shape_map.py: half the width"),
    "yuan_2_0_m32_code": Shape(2048, 4096, 32, 2, "github Man0xbfc00380/MoeOpt model_shape_map.py: half the width"),
}
"""Models of the paper that `conf/model` does not hold; `_code`: as the released code has them."""
PAPER_MODELS = ("phi_3_5_moe", "yuan_2_0_m32", "deepseek_moe_16b", "qwen3_30b_a3b")


def load_shape(name: str) -> Shape:
    """The sizes of a model, of `SHAPES` or of `conf/model`.

    Raises: UserError when neither has the name.
    """
    if name in SHAPES:
        return SHAPES[name]
    try:
        found = load_dimensions(name)
    except UserError as error:
        known = ", ".join(sorted({*SHAPES, *model_names()}))
        raise UserError(f"system.model={name} is not known: choose one of {known}") from error
    return Shape(found.hidden_size, found.expert_ffn, found.num_experts, found.top_k, found.source)


def fits(trace: Trace, shape: Shape) -> bool:
    """Whether a trace routes over as many experts, as many at a time, as the model."""
    return (trace.num_experts, trace.top_k) == (shape.num_experts, shape.top_k)


def drawn(shape: Shape, iterations: int, tokens: int, skew: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """[iterations, tokens, top_k] experts, without repetition within a token, of popularity rank ** -skew.

    Ranks are dealt anew for each draw, as if it were another layer. 0: all experts alike. Tokens are independent.
    """
    weights = np.log(np.arange(1, shape.num_experts + 1)) * -skew
    keys = rng.permutation(weights) + rng.gumbel(size=(iterations, tokens, shape.num_experts))
    return np.argsort(-keys, axis=-1)[..., : shape.top_k]


def sampled(trace: Trace, iterations: int, tokens: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[iterations, tokens, top_k] experts of random rows of the trace, with replacement, in one random layer."""
    refuse_fewer(trace.fewer, "system=expert_streaming")
    rows = rng.integers(0, trace.num_tokens, (iterations, tokens))
    layer = int(rng.integers(trace.num_layers))
    return gather(trace.topk_ids, rows.ravel())[:, layer].reshape(*rows.shape, -1).astype(np.int64)


def deferred(ids: NDArray[np.int64], num_experts: int, budget: int, waited: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which tokens wait for the next iteration so that cold experts need not load: [tokens]; ids [tokens, top_k].

    Experts from the coldest on: all their tokens wait if none of them `waited` just now and at most `budget` tokens
    wait altogether. The paper gives no formula; what waits here is the whole token (INFERRED).
    """
    wanted = np.zeros((len(ids), num_experts), bool)
    np.put_along_axis(wanted, ids, True, axis=1)
    chosen = np.zeros(len(ids), bool)
    count = wanted.sum(axis=0)
    for expert in np.argsort(count, kind="stable"):
        union = chosen | wanted[:, expert]
        if union.sum() > budget:
            break
        if not (wanted[:, expert] & waited).any():
            chosen = union
    return chosen


def buffered(ids: NDArray[np.int64], num_experts: int, slack: float, refill: bool) -> list[NDArray[np.int64]]:
    """The tokens that run in each iteration when a share `slack` of them may wait; ids [iterations, tokens, top_k].

    A token waits once at most. `refill`: iteration i brings the new tokens ids[i] whoever waits, as where many requests
    share the package; the last one lets nobody wait. Otherwise ids[:, j] are the tokens of sequence j, which gets no
    new one while one of them waits.
    """
    if slack == 0.0:
        return list(ids)
    return _refilled(ids, num_experts, slack) if refill else _lockstep(ids, num_experts, slack)


def _refilled(ids: NDArray[np.int64], num_experts: int, slack: float) -> list[NDArray[np.int64]]:
    run, late = [], ids[0, :0]
    for i, new in enumerate(ids):
        budget = int(slack * len(new)) if i + 1 < len(ids) else 0
        current = np.concatenate([late, new])
        waits = deferred(current, num_experts, budget, np.arange(len(current)) < len(late))
        run.append(current[~waits])
        late = current[waits]
    return run


def _lockstep(ids: NDArray[np.int64], num_experts: int, slack: float) -> list[NDArray[np.int64]]:
    iterations, tokens, _ = ids.shape
    at, waits, run = np.zeros(tokens, np.int64), np.zeros(tokens, bool), []
    for _ in range(iterations):
        current = ids[at, np.arange(tokens)]
        waits = deferred(current, num_experts, int(slack * tokens), waits)
        run.append(current[~waits])
        at += ~waits
    return run


def waiting(tokens: int, run: list[NDArray[np.int64]], refill: bool) -> int:
    """How often a token waited, over all iterations of `tokens` new tokens (or sequences) each."""
    left = tokens - np.array([len(step) for step in run])
    return int(left.cumsum().sum() if refill else left.sum())
