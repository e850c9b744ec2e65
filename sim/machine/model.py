"""Sizes of a model in bytes, from the dimensions in `conf/model/*.yaml`: one function per quantity."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from sim.config import validate
from sim.paths import CONF
from sim.plain_yaml import read_mapping
from sim.ranges import Range, check_ranges
from traces.errors import UserError
from traces.format.trace import Geometry

Width = Annotated[int, Range(1, 2**24)]
Vocabulary = Annotated[int, Range(1, 2**32)]
Count = Annotated[int, Range(1, 65535)]
Extra = Annotated[int, Range(0, 2**40)]
Bits = Annotated[float, Range(1, 64)]
MODEL_FOLDER = CONF / "model"


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What a model's `config.json` says of its sizes; counts of numbers unless a field says otherwise.

    `num_layers`: layers with routed experts; `dense_layers`: layers with one feed-forward block of `dense_ffn`.
    `shared_ffn`: width of all shared experts of a layer together (0: none). `matrices` of an expert, shared expert and
    dense block: gate, up and down, or 2 without a gate. `expert_bias` and `attention_extra` count the small vectors
    beside the matrices: biases of one expert; norms, biases and sinks of one layer. `router_bias`: biases of the
    router. `shared_gate`: numbers of the gate that weighs the shared experts. `other_extra`: what else is read once a
    step. `attention_numbers`: of attention, or what stands in its place, and norms of a mean layer, and `kv_numbers`:
    of K and V of one token over all layers, where heads alone give neither: latent attention, layers of several kinds.

    `weight_bits`: stored bits per weight of an expert matrix, scales included; `attention_bits`, `shared_bits` and
    `dense_bits`: of those matrices, `other_bits` where null; `other_bits`: of everything else, and of K and V.

    Raises: UserError that names the field out of range.
    """

    name: str
    hidden_size: Width
    num_layers: Count
    num_experts: Count
    top_k: Count
    expert_ffn: Width
    num_heads: Width
    num_kv_heads: Width
    head_dim: Width
    vocab_size: Vocabulary
    names: tuple[str, ...] = ()
    source: str = ""
    dense_layers: Annotated[int, Range(0, 65535)] = 0
    dense_ffn: Annotated[int, Range(0, 2**24)] = 0
    shared_ffn: Annotated[int, Range(0, 2**24)] = 0
    shared_gate: Extra = 0
    matrices: Annotated[int, Range(2, 3)] = 3
    expert_bias: Extra = 0
    router_bias: Extra = 0
    attention_extra: Extra = 0
    attention_numbers: Extra | None = None
    kv_numbers: Extra | None = None
    other_extra: Extra = 0
    weight_bits: Bits = 16.0
    attention_bits: Bits | None = None
    shared_bits: Bits | None = None
    dense_bits: Bits | None = None
    other_bits: Bits = 16.0
    tied: bool = False
    stored_expert_bytes: tuple[int, ...] = ()
    """Bytes of an expert of each MoE layer as stored, where known; this and the next four come before what the
    dimensions give."""
    stored_attention_bytes: tuple[int, ...] = ()
    stored_shared_bytes: tuple[int, ...] = ()
    stored_other_bytes: Extra | None = None
    stored_kv_bytes: Extra | None = None
    """Of one token, over all layers with a cache, for each of the MoE layers."""

    def __post_init__(self) -> None:
        check_ranges(self, f"model {self.name}: ")
        if not all(isinstance(name, str) for name in self.names):
            raise UserError(f"model {self.name}: names={self.names!r} must be a list of words")
        for field in ("stored_expert_bytes", "stored_attention_bytes", "stored_shared_bytes"):
            stored = getattr(self, field)
            whole = all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**50 for size in stored)
            if stored and (len(stored) != self.num_layers or not whole):
                raise UserError(
                    f"model {self.name}: {field} must list a size in bytes for each of the {self.num_layers} layers"
                )
        if _projection_parameters(self) > 2**40:
            raise UserError(
                f"model {self.name}: num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads} and "
                f"head_dim={self.head_dim}: attention of one layer must have at most 2^40 numbers"
            )
        if self.top_k > self.num_experts:
            raise UserError(f"model {self.name}: top_k={self.top_k} must not be above num_experts={self.num_experts}")
        if bool(self.dense_layers) != bool(self.dense_ffn):
            raise UserError(
                f"model {self.name}: dense_layers={self.dense_layers} and dense_ffn={self.dense_ffn} "
                "must both be above zero, or neither"
            )


def expert_parameters(model: Dimensions) -> int:
    """Numbers of one routed expert: its matrices and biases."""
    return model.matrices * model.hidden_size * model.expert_ffn + model.expert_bias


def expert_bytes(model: Dimensions) -> int:
    """Bytes of one routed expert: its matrices at `weight_bits`, its biases at `other_bits`."""
    matrices = model.matrices * model.hidden_size * model.expert_ffn
    return round((matrices * model.weight_bits + model.expert_bias * model.other_bits) / 8)


def _projection_parameters(model: Dimensions) -> int:
    """Numbers of q, k, v and o: hidden_size * head_dim * (2 * num_heads + 2 * num_kv_heads), norms and biases."""
    if model.attention_numbers is not None:
        return model.attention_numbers
    heads = 2 * model.num_heads + 2 * model.num_kv_heads
    return model.hidden_size * model.head_dim * heads + model.attention_extra


def _router_parameters(model: Dimensions) -> int:
    return model.hidden_size * model.num_experts + model.router_bias


def attention_parameters(model: Dimensions) -> int:
    """Numbers of attention, norms and router in one MoE layer; the router has hidden_size * num_experts."""
    return _projection_parameters(model) + _router_parameters(model)


def attention_bytes(model: Dimensions) -> int:
    """Bytes of attention, norms and router in one MoE layer, read in every step; the router at `other_bits`."""
    attention = _projection_parameters(model) * _bits(model.attention_bits, model)
    return round((attention + _router_parameters(model) * model.other_bits) / 8)


def shared_parameters(model: Dimensions) -> int:
    """Numbers of the shared experts of one layer: their matrices and their gate; 0 without them."""
    return model.matrices * model.hidden_size * model.shared_ffn + model.shared_gate


def shared_bytes(model: Dimensions) -> int:
    """Bytes of the shared experts of one MoE layer; 0 where the model has none."""
    return round(shared_parameters(model) * _bits(model.shared_bits, model) / 8)


def _head_parameters(model: Dimensions) -> int:
    """Numbers of the LM head and the last norm."""
    return model.vocab_size * model.hidden_size + model.hidden_size


def other_parameters(model: Dimensions) -> int:
    """Numbers read once per step: LM head (vocab_size * hidden_size), last norm, dense layers, and what else is."""
    dense = _projection_parameters(model) + model.matrices * model.hidden_size * model.dense_ffn
    return _head_parameters(model) + model.dense_layers * dense + model.other_extra


def other_bytes(model: Dimensions) -> int:
    """Bytes read once per step: LM head, last norm and dense layers (of an embedding, one row is read: left out)."""
    attention = model.dense_layers * _projection_parameters(model)
    dense = other_parameters(model) - _head_parameters(model) - attention
    bits = _head_parameters(model) * model.other_bits + attention * _bits(model.attention_bits, model)
    return round((bits + dense * _bits(model.dense_bits, model)) / 8)


def _bits(own: float | None, model: Dimensions) -> float:
    return model.other_bits if own is None else own


def embedding_bytes(model: Dimensions) -> int:
    """Bytes of the input embedding, which lie on the device though a step reads a row of a token only; 0 where it is
    the LM head."""
    return 0 if model.tied else round(model.vocab_size * model.hidden_size * model.other_bits / 8)


def kv_bytes_per_token(model: Dimensions, bits: float | None = None) -> int:
    """Bytes of K and V of one token over all layers, dense ones too, at ``bits`` or else `other_bits`, for each of the
    MoE layers."""
    layers = model.num_layers + model.dense_layers
    numbers = 2 * model.num_kv_heads * model.head_dim * layers if model.kv_numbers is None else model.kv_numbers
    return round(numbers * (model.other_bits if bits is None else bits) / 8 / model.num_layers)


def geometry(model: Dimensions) -> Geometry:
    """The sizes that the time model needs; every MoE layer alike unless stored sizes say otherwise."""
    layers = model.num_layers
    return Geometry(
        model=model.name,
        num_layers=layers,
        num_experts=model.num_experts,
        top_k=model.top_k,
        expert_bytes=model.stored_expert_bytes or (expert_bytes(model),) * layers,
        attention_bytes=model.stored_attention_bytes or (attention_bytes(model),) * layers,
        shared_bytes=model.stored_shared_bytes or (shared_bytes(model),) * layers,
        other_bytes=other_bytes(model) if model.stored_other_bytes is None else model.stored_other_bytes,
        kv_bytes_per_token=kv_bytes_per_token(model) if model.stored_kv_bytes is None else model.stored_kv_bytes,
        hidden_size=model.hidden_size,
        weight_bits=model.weight_bits,
    )


def read_every_token_bytes(sizes: Geometry) -> int:
    """Bytes of everything that is no routed expert and that each token reads; 0 for a size that is not known."""
    return sum(sizes.attention_bytes or ()) + sum(sizes.shared_bytes or ()) + (sizes.other_bytes or 0)


def model_names() -> list[str]:
    """Names of the models whose dimensions `conf/model` holds (files that say how to record a model are left out)."""
    return sorted(_dimension_files())


def load_dimensions(name: str) -> Dimensions:
    """The dimensions of a model, found by the stem of its file or by one of the `names` in it, in any case of letters.

    Raises: UserError when no file has the name, or a field in the file is unknown, missing or out of range.
    """
    files = _dimension_files()
    for stem, config in files.items():
        known = (stem, config.get("name", ""), *config.get("names", ()))
        if name.lower() in (str(alias).lower() for alias in known):
            return dimensions_from_config(config)
    raise UserError(f"model={name} is not known: choose one of {', '.join(sorted(files))}")


def load_geometry(name: str) -> Geometry:
    """The sizes of a model of `conf/model`, found as `load_dimensions` does.

    Raises: UserError as `load_dimensions`.
    """
    return geometry(load_dimensions(name))


def dimensions_from_config(config: Mapping[str, Any]) -> Dimensions:
    """The dimensions given as plain `field: value` pairs, for example the `model` group of a composed configuration.

    Raises: UserError that names the first unknown, missing or impossible field.
    """
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    values["names"] = values.get("names") or ()
    return validate(Dimensions, values, f"model {config.get('name', 'without a name')}: ")


@cache
def _dimension_files() -> dict[str, dict[str, Any]]:
    """The content of every file of `conf/model` that states an expert's width, by the stem of its name."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(MODEL_FOLDER.glob("*.yaml")):
        config = read_mapping(path, "the model file")
        if "expert_ffn" in config:
            files[path.stem] = config
    return files
