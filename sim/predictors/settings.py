"""The knobs of trained predictors: sizes of the networks and how they are trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from policies.base import require
from policies.state import MAX_LOOKAHEAD
from sim.config import validate
from traces.errors import UserError

INPUTS = ("auto", "tokens", "experts", "both")
COUNT = 1_000_000


@dataclass(frozen=True, slots=True)
class MoeBeyondSettings:
    """Sizes of MoE-Beyond's causal Transformer encoder.

    Published: embedding of the token 2048 wide (the base model's own) beside one of the layer 512 wide, projected to
    512; 4 blocks, 8 heads, feed-forward 2048, dropout 0.1, at most 512 tokens, a head 512 -> 512 GELU -> experts.
    The paper's sources known here do not give the learning rate, nor how positions are encoded.
    """

    inputs: str = "auto"
    """What a token is known by: 'tokens' (an embedding learned from its id), 'experts' (those that the token before it
    used in the same layer), 'both'; 'auto': tokens where the trace has token ids, else experts."""
    causal: bool = True
    """false: the published variant, whose encoder also sees the later tokens of the request."""
    width: int = 64
    token_width: int = 64
    layer_width: int = 32
    blocks: int = 2
    heads: int = 4
    feed_forward: int = 256
    head_width: int = 64
    dropout: float = 0.1
    context: int = 512
    """How many tokens back the encoder sees."""
    min_count: int = 2
    """Tokens that the training requests hold less often share one embedding with those they do not hold at all."""
    layer_heads: bool = True
    """Each layer has its own output weights; false: one head for all layers, as published."""
    learned_layers: bool = True
    """The layer embedding is learned; false: frozen random vectors, as in the released code."""

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise UserError(f"predictor.inputs={self.inputs}: must be one of {', '.join(INPUTS)}")
        for name in ("width", "token_width", "layer_width", "blocks", "heads", "feed_forward", "head_width"):
            require(f"predictor.{name}", getattr(self, name), 1, COUNT)
        require("predictor.context", self.context, 2, COUNT)
        require("predictor.min_count", self.min_count, 1, COUNT)
        require("predictor.dropout", self.dropout, 0.0, 0.9)
        if self.width % self.heads:
            raise UserError(f"predictor.width={self.width}: must be a multiple of predictor.heads={self.heads}")


@dataclass(frozen=True, slots=True)
class PromoeSettings:
    """Sizes of ProMoE's predictors: one two-layer perceptron for each layer (and each distance up to ``stride``)."""

    stride: int = 1
    """How many layers ahead the farthest forecast reaches."""
    hidden: int = 128
    """Width of the hidden layer; the paper's sources known here do not give it."""
    previous: bool = True
    """Also show the experts that the token before used in the target layer, where they are known."""

    def __post_init__(self) -> None:
        require("predictor.stride", self.stride, 1, MAX_LOOKAHEAD)
        require("predictor.hidden", self.hidden, 1, COUNT)

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

    max_epochs: int = 100
    patience: int = 3
    """Stop after this many epochs without a lower loss on the validation requests; the best epoch is kept."""
    batch_requests: int = 1
    """Requests per update. Published: 4, with 6,994 prompts to learn from; few requests want more updates."""
    learning_rate: float = 0.002
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    validation_share: float = 0.2
    """Share of the requests to learn from that decides when to stop, at least one request."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_epochs", "patience", "batch_requests"):
            require(f"train.{name}", getattr(self, name), 1, COUNT)
        for name in ("learning_rate", "clip_norm"):
            require(f"train.{name}", getattr(self, name), 1e-12, 1e6)
        for name in ("beta1", "beta2", "weight_decay"):
            require(f"train.{name}", getattr(self, name), 0.0, 1.0)
        require("train.validation_share", self.validation_share, 0.0, 0.9)
        require("train.seed", self.seed, 0, 2**63 - 1)


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


def as_values(settings: Settings) -> dict[str, Any]:
    """The settings as plain values."""
    return asdict(settings)
