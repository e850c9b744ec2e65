"""The knobs of trained predictors: sizes of the networks and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from policies.state import MAX_LOOKAHEAD
from sim.config import validate
from sim.ranges import OneOf, Range, Seed, Share, check_ranges
from traces.errors import UserError

INPUTS = ("auto", "tokens", "experts", "both")
Size = Annotated[int, Range(1, 1_000_000)]
Rate = Annotated[float, Range(1e-12, 1e6)]


@dataclass(frozen=True, slots=True)
class MoeBeyondSettings:
    """Sizes of MoE-Beyond's causal Transformer encoder.

    Published: embedding of the token 2048 wide (the base model's own) beside one of the layer 512 wide, projected to
    512; 4 blocks, 8 heads, feed-forward 2048, dropout 0.1, at most 512 tokens, a head 512 -> 512 GELU -> experts.
    The paper's sources known here do not give the learning rate, nor how positions are encoded.
    """

    inputs: Annotated[str, OneOf(*INPUTS)] = "auto"
    """What a token is known by: 'tokens' (an embedding learned from its id), 'experts' (those that the token before it
    used in the same layer), 'both'; 'auto': tokens where the trace has token ids, else experts."""
    causal: bool = True
    """false: the published variant, whose encoder also sees the later tokens of the request."""
    width: Size = 64
    token_width: Size = 64
    layer_width: Size = 32
    blocks: Size = 2
    heads: Size = 4
    feed_forward: Size = 256
    head_width: Size = 64
    dropout: Annotated[float, Range(0, 0.9)] = 0.1
    context: Annotated[int, Range(2, 1_000_000)] = 512
    """How many tokens back the encoder sees."""
    min_count: Size = 2
    """Tokens that the training requests hold less often share one embedding with those they do not hold at all."""
    layer_heads: bool = True
    """Each layer has its own output weights; false: one head for all layers, as published."""
    learned_layers: bool = True
    """The layer embedding is learned; false: frozen random vectors, as in the released code."""

    def __post_init__(self) -> None:
        check_ranges(self, "predictor.")
        if self.width % self.heads:
            raise UserError(f"predictor.width={self.width}: must be a multiple of predictor.heads={self.heads}")


@dataclass(frozen=True, slots=True)
class PromoeSettings:
    """Sizes of ProMoE's predictors: one two-layer perceptron for each layer (and each distance up to ``stride``)."""

    stride: Annotated[int, Range(1, MAX_LOOKAHEAD)] = 1
    """How many layers ahead the farthest forecast reaches."""
    hidden: Size = 128
    """Width of the hidden layer; the paper's sources known here do not give it."""
    previous: bool = True
    """Also show the experts that the token before used in the target layer, where they are known."""

    def __post_init__(self) -> None:
        check_ranges(self, "predictor.")

    @property
    def causal(self) -> bool:
        return True


Settings = MoeBeyondSettings | PromoeSettings
KINDS: dict[str, type[MoeBeyondSettings] | type[PromoeSettings]] = {
    "moe_beyond": MoeBeyondSettings,
    "promoe_mlp": PromoeSettings,
}


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a predictor is trained: AdamW on the binary cross-entropy of every (token, layer, expert), early stopping."""

    max_epochs: Size = 100
    patience: Size = 3
    """Stop after this many epochs without a lower loss on the validation requests; the best epoch is kept."""
    batch_requests: Size = 1
    """Requests per update. Published: 4, with 6,994 prompts to learn from; few requests want more updates."""
    learning_rate: Rate = 0.002
    beta1: Share = 0.9
    beta2: Share = 0.98
    weight_decay: Share = 0.01
    clip_norm: Rate = 1.0
    validation_share: Annotated[float, Range(0, 0.9)] = 0.2
    """Share of the requests to learn from that decides when to stop, at least one request."""
    seed: Seed = 0
    float16: bool = False
    """Round the best epoch's weights to 16 bits, before they are measured and written: half the file."""

    def __post_init__(self) -> None:
        check_ranges(self, "train.")


def network_settings(values: dict[str, Any]) -> tuple[str, Settings]:
    """(kind, settings) of the ``predictor`` group.

    Raises: UserError for an unknown kind or knob, or a value out of range.
    """
    rest = dict(values)
    kind = rest.pop("kind", None)
    if kind not in KINDS:
        raise UserError(f"predictor.kind={kind}: must be {' or '.join(KINDS)}")
    settings: Settings = validate(KINDS[kind], rest, "predictor.")
    return kind, settings
