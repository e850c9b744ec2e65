"""Which layers of a model attend, keep a state or have experts, and how many numbers each has, by its `config.json`.

Names and shapes are those of the models' code in transformers; a test counts the parameters of every family it knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.model_files.values import MOST_LAYERS, Values
from traces.errors import UserError

FULL, WINDOW, INDEXED, STATE, NONE = "attention", "window", "indexed", "state", "none"
"""What mixes the tokens of a layer: all of them, those of a window, those an indexer picks, a state; or nothing."""
COMPRESSED, SPARSE = "heavily_compressed_attention", "compressed_sparse_attention"
"""Kinds of attention over compressed tokens (DeepSeek-V4)."""
RATIOS = {0: WINDOW, 4: SPARSE, 128: COMPRESSED}
"""Tokens that DeepSeek-V4 compresses into one -> kind of attention."""
EXPERTS, DENSE, NO_FEED = "experts", "dense", "no feed-forward block"
MIXERS = {
    **dict.fromkeys(("full_attention", "attention", "*", "global", "global_attention"), FULL),
    **dict.fromkeys(("sliding_attention", "chunked_attention", "local", "local_attention"), WINDOW),
    "indexed_attention": INDEXED, COMPRESSED: COMPRESSED, SPARSE: SPARSE,
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "M", "conv", "short_conv", "recurrent"), STATE),
    **dict.fromkeys(("moe", "E", "mlp", "-"), NONE),
}  # fmt: skip
"""Word in a list of layers -> what mixes its tokens."""
BLOCKS = {**dict.fromkeys(("moe", "E"), EXPERTS), **dict.fromkeys(("mlp", "-"), DENSE)}
"""Words of models (Nemotron-H) whose layers are either a mixer or a feed-forward block."""
ROUTED = ("sparse", "moe", "hash_moe")
STATES = ("mamba", "ssm", "conv_", "linear_", "rwkv", "lru_", "attn_layer_", "hybrid_", "attn_type_list", "short_conv")
"""Beginnings of names that say that some layers keep a state."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What mixes its tokens, and what feeds forward."""

    mixer: str
    feed: str


def layers_of(values: Values) -> list[Layer]:
    """The layers in order. Raises: UserError where what a layer is cannot be told."""
    words = _words(values)
    count = values.number("num_hidden_layers", "num_layers", "n_layers", most=MOST_LAYERS)
    if count is None and words is not None:
        count = len(words)
    if not count:
        count = values.needed("num_hidden_layers", most=MOST_LAYERS)
    if words is not None and len(words) < count:
        raise UserError(f"layer_types lists {len(words)} layers: must list all {count}")
    mixers = [_mixer(word) for word in words[:count]] if words is not None else _mixers(values, count)
    mixers = _own_indexers(values, mixers)
    if words is not None and any(word in BLOCKS for word in words[:count]):
        return [Layer(mixer, BLOCKS.get(word, NO_FEED)) for mixer, word in zip(mixers, words[:count], strict=True)]
    routed = _routed(values, count)
    return [Layer(mixer, EXPERTS if has else DENSE) for mixer, has in zip(mixers, routed, strict=True)]


def _words(values: Values) -> list[str] | None:
    """What each layer is called, where a list says so."""
    pattern = values.config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        if len(pattern) > MOST_LAYERS:
            raise UserError(f"hybrid_override_pattern has {len(pattern)} layers: must be at most {MOST_LAYERS}")
        return list(pattern)
    for name in ("layer_types", "layers_block_type"):
        words = values.words(name, 0)
        if words:
            if len(words) > MOST_LAYERS:
                raise UserError(f"{name} lists {len(words)} layers: must be at most {MOST_LAYERS}")
            return words
    return None


def _own_indexers(values: Values, mixers: list[str]) -> list[str]:
    """Layers that take the tokens another one picked have no indexer (GLM-5.x): they hold what full attention does."""
    if INDEXED not in mixers:
        return mixers
    words = values.words("indexer_types", len(mixers))
    if words is None:
        every, first = values.number("index_topk_freq") or 1, values.number("index_skip_topk_offset")
        start = 2 if first is None else first
        words = ["full" if max(at - start + 1, 0) % every == 0 else "shared" for at in range(len(mixers))]
    return [FULL if mixer == INDEXED and word == "shared" else mixer for mixer, word in zip(mixers, words, strict=True)]


def _mixer(word: str) -> str:
    if word not in MIXERS:
        raise UserError(
            f"a layer is {word[:60]!r}, whose size and cache are not known here; known are {', '.join(MIXERS)}"
        )
    return MIXERS[word]


def _mixers(values: Values, count: int) -> list[str]:
    """What mixes the tokens of each layer, where no list of words says so."""
    kinds = values.numbers("attn_type_list", count)  # MiniMax-01: 0 for lightning attention
    if kinds is not None:
        return [FULL if kind else STATE for kind in kinds]
    kinds = values.numbers("hybrid_layer_pattern", count)  # MiMo-V2: 1 for a window
    if kinds is not None:
        return [WINDOW if kind else FULL for kind in kinds]
    kinds = values.numbers("compress_ratios", count)  # DeepSeek-V4 as published
    if kinds is not None:
        return [RATIOS[_ratio(kind)] for kind in kinds]
    linear = values.inner("linear_attn_config")
    if linear is not None:  # Kimi-Linear counts layers from 1
        full = linear.listed("full_attn_layers")
        return [FULL if layer + 1 in full else STATE for layer in range(count)]
    interval = values.number("full_attention_interval")
    if interval:
        return [FULL if (layer + 1) % interval == 0 else STATE for layer in range(count)]
    period = values.number("attn_layer_period")
    if period:
        offset = values.number("attn_layer_offset") or 0
        return [FULL if layer % period == offset else STATE for layer in range(count)]
    if values.family.startswith("llama4") and values.number("attention_chunk_size"):
        step = values.number("no_rope_layer_interval") or 4
        return [FULL if (layer + 1) % step == 0 else WINDOW for layer in range(count)]
    told = sorted(name for name, value in values.config.items() if name.startswith(STATES) and value)
    if told:
        raise UserError(f"{told[0]} says that some layers are no attention; layer_types, which says which, is not set")
    return [INDEXED if values.has("index_topk") else FULL] * count


def _ratio(kind: int) -> int:
    if kind not in RATIOS:
        raise UserError(f"compress_ratios lists {kind}: must be one of {', '.join(map(str, RATIOS))}")
    return kind


def _routed(values: Values, count: int) -> list[bool]:
    """Whether each layer has routed experts."""
    words = values.words("mlp_layer_types", count)
    if words is not None:
        return [word in ROUTED for word in words]
    for name in ("moe_layer_freq", "is_moe_layer", "moe_layers_list"):
        plan = values.config.get(name)
        if isinstance(plan, list):
            return [layer < len(plan) and bool(plan[layer]) for layer in range(count)]
    listed = values.config.get("moe_layers_enum")  # Step-3: a text of numbers
    if isinstance(listed, str) and listed:
        numbers = {int(part) for part in listed.split(",") if part.strip().isdecimal() and len(part) < 9}
        return [layer in numbers for layer in range(count)]
    period = values.number("expert_layer_period")
    if period:
        offset = values.number("expert_layer_offset") or 0
        return [layer % period == offset for layer in range(count)]
    named, dense = values.listed("moe_layers"), values.listed("mlp_only_layers")
    first = values.number("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers") or 0
    last = -1 if values.config.get("moe_layer_end_index") in (None, -1) else values.number("moe_layer_end_index")
    step = values.number("decoder_sparse_step", "moe_layer_interval", "interleave_moe_layer_step")
    every = values.number("moe_layer_freq")  # DeepSeek: counted from 0
    plan = []
    for layer in range(count):
        within = first <= layer and (last is None or last < 0 or layer <= last) and layer not in dense
        on_step = layer in named if named else (not step or (layer + 1) % step == 0)
        plan.append(within and on_step and (not every or layer % every == 0))
    return plan


def mixer_numbers(values: Values, mixer: str, hidden: int) -> int:
    """Numbers of what mixes the tokens of a layer, its norms left out."""
    if mixer == NONE:
        return 0
    if mixer == STATE:
        return _state_numbers(values, hidden)
    if values.has("o_lora_rank", "o_groups"):
        return _compressed_numbers(values, mixer, hidden)
    if values.number("kv_lora_rank"):
        return _latent_numbers(values, hidden) + (_indexer_numbers(values, hidden) if mixer == INDEXED else 0)
    return _head_numbers(values, mixer, hidden)


SHORT_WINDOW = 256
"""Tokens up to which what a window holds is left out; longer ones are counted as if they grew."""


def window_of(values: Values) -> int | None:
    """Tokens that a layer with a window attends to; None where the file does not say."""
    return values.number("sliding_window", "attention_chunk_size")


def short_window(values: Values) -> bool:
    """Whether windows hold too little to count."""
    return 0 < (window_of(values) or 0) <= SHORT_WINDOW


def cached_numbers(values: Values, mixer: str, hidden: int) -> float:
    """Numbers that are cached of one token by what mixes the tokens of a layer; a state is none of them, nor are the
    few tokens of a short window, which do not grow with the context."""
    if mixer in (STATE, NONE) or (mixer == WINDOW and short_window(values)):
        return 0
    if mixer in (COMPRESSED, SPARSE):
        rate = _rate(values, mixer)
        keys = values.needed("index_head_dim") if mixer == SPARSE else 0
        return (values.needed("head_dim") + keys) / rate
    if values.has("o_lora_rank", "o_groups"):
        return values.needed("head_dim")  # keys are values
    indexer = values.needed("index_head_dim") if mixer == INDEXED else 0
    latent = values.number("kv_lora_rank")
    if latent:
        return latent + (values.number("qk_rope_head_dim") or 0) + indexer
    heads = heads_of(values, mixer, hidden)
    return heads.cached * (heads.key + heads.value) + indexer


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of queries, heads of K and V, and how wide those of keys and values are."""

    queries: int
    cached: int
    key: int
    value: int


def heads_of(values: Values, mixer: str, hidden: int) -> Heads:
    """Heads of a layer; those of windows or of all tokens may be others (Gemma-4, MiMo-V2)."""
    queries = values.needed("num_attention_heads", "num_heads", "n_heads")
    inner = values.inner("attn_config")
    cached = (
        values.number("num_key_value_heads", "num_attention_groups")
        or (inner.number("kv_n_heads") if inner else None)
        or queries
    )
    width = values.number("head_dim", "attention_head_dim", "kv_channels") or max(1, hidden // queries)
    value = values.number("v_head_dim") or width
    if mixer == WINDOW:
        queries = values.number("swa_num_attention_heads") or queries
        twice = 2 if values.family == "mimo_v2_flash" else 1  # in transformers; the published file names the number
        cached = values.number("swa_num_key_value_heads") or twice * cached
        value = values.number("swa_v_head_dim") or values.number("swa_head_dim") or value
        width = values.number("swa_head_dim") or width
    elif values.number("global_head_dim"):
        width = value = values.needed("global_head_dim")
        cached = values.number("num_global_key_value_heads") or cached
    return Heads(queries, cached, width, value)


def _head_numbers(values: Values, mixer: str, hidden: int) -> int:
    """q, k, v and o, with the biases, the norms of q and k and the gate of the output that the model has."""
    heads = heads_of(values, mixer, hidden)
    shared = mixer == FULL and values.flag("attention_k_eq_v")  # Gemma-4: the values are the keys
    keys, taken = heads.cached * heads.key, 0 if shared else heads.cached * heads.value
    queries, result = heads.queries * heads.key, heads.queries * heads.value
    numbers = hidden * (queries + keys + taken + result)
    if values.flag("attention_bias", "qkv_bias", "use_qkv_bias", "use_bias"):
        numbers += queries + keys + taken
    if values.family.startswith(GATED) or values.flag("attn_output_gate"):
        numbers += hidden * result
    return numbers


GATED = ("qwen3_next", "qwen3_5_moe", "afmoe", "beam")
"""Families whose attention has a gate as wide as its output."""


def _latent_numbers(values: Values, hidden: int) -> int:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""
    heads, latent = values.needed("num_attention_heads"), values.needed("kv_lora_rank")
    rope, nope = values.number("qk_rope_head_dim") or 0, values.needed("qk_nope_head_dim")
    value, query = values.needed("v_head_dim"), values.number("q_lora_rank")
    width = heads * (rope + nope)
    numbers = hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden + latent
    return numbers + (hidden * query + query * width + query if query else hidden * width)


def _indexer_numbers(values: Values, hidden: int) -> int:
    """What picks the tokens that are attended to (DeepSeek-V3.2): queries, one key, a weight of each head."""
    heads, width = values.needed("index_n_heads"), values.needed("index_head_dim")
    query = values.number("q_lora_rank") or hidden
    return query * heads * width + hidden * width + hidden * heads + 2 * width


def _rate(values: Values, mixer: str) -> int:
    """Tokens that become one."""
    rates = values.inner("compress_rates")
    return rates.needed(mixer) if rates is not None else next(rate for rate, kind in RATIOS.items() if kind == mixer)


def _compressed_numbers(values: Values, mixer: str, hidden: int) -> int:
    """Attention over compressed tokens, as DeepseekV4Attention of transformers."""
    heads, width = values.needed("num_attention_heads"), values.needed("head_dim")
    query, rank, groups = values.needed("q_lora_rank"), values.needed("o_lora_rank"), values.needed("o_groups")
    numbers = hidden * query + query * heads * width + hidden * width
    numbers += heads * width * rank + groups * rank * hidden + heads
    if mixer not in (COMPRESSED, SPARSE):
        return numbers
    rate, wide = _rate(values, mixer), width if mixer == COMPRESSED else 2 * width
    numbers += 2 * hidden * wide + rate * wide
    if mixer == SPARSE:
        index_heads, index = values.needed("index_n_heads"), values.needed("index_head_dim")
        numbers += 4 * hidden * index + 2 * rate * index + query * index_heads * index + hidden * index_heads
    return numbers


def _state_numbers(values: Values, hidden: int) -> int:
    """Numbers of a layer that keeps a state instead of K and V, by the names that its kind has."""
    if values.has("linear_num_value_heads", "linear_num_key_heads"):
        return _delta_net(values, hidden)
    if values.has("conv_L_cache"):  # LFM2: a gated short convolution
        return 4 * hidden * hidden + hidden * values.needed("conv_L_cache")
    if values.has("mamba_dt_rank") or (values.has("mamba_expand", "mamba_d_state") and not values.has("mamba_n_heads")):
        return _mamba(values, hidden)
    if values.has("mamba_n_heads") or values.has("mamba_num_heads"):
        return _mamba_2(values, hidden)
    if values.inner("linear_attn_config") is not None or values.has("linear_num_heads", "linear_head_dim"):
        return _kimi_delta(values, hidden)
    if values.family.startswith("minimax"):  # lightning attention: q, k, v, gate, o and a norm
        width = values.needed("num_attention_heads") * (values.number("head_dim") or 1)
        return 5 * hidden * width + width
    raise UserError("some layers keep a state, whose size cannot be read off here")


def _delta_net(values: Values, hidden: int) -> int:
    """Gated DeltaNet, as Qwen3NextGatedDeltaNet of transformers."""
    heads = values.needed("linear_num_value_heads")
    keys = values.needed("linear_num_key_heads") * values.needed("linear_key_head_dim")
    width = values.needed("linear_value_head_dim")
    taken, kernel = heads * width, values.number("linear_conv_kernel_dim") or 4
    return hidden * (2 * keys + 3 * taken + 2 * heads) + kernel * (2 * keys + taken) + 2 * heads + width


def _kimi_delta(values: Values, hidden: int) -> int:
    """Kimi Delta Attention, as KimiLinear of transformers."""
    own = values.inner("linear_attn_config") or values
    heads, width = own.needed("num_heads", "linear_num_heads"), own.needed("head_dim", "linear_head_dim")
    if own is values:
        heads, width = values.needed("linear_num_heads"), values.needed("linear_head_dim")
    kernel = own.number("short_conv_kernel_size", "linear_conv_kernel_dim") or 4
    all_heads = heads * width
    gates = 2 * hidden * all_heads if values.family == "bailing_hybrid" else 2 * (hidden * width + width * all_heads)
    return 4 * hidden * all_heads + gates + hidden * heads + 3 * kernel * all_heads + heads + all_heads + width


def _mamba(values: Values, hidden: int) -> int:
    """Mamba (arXiv 2312.00752), as JambaMambaMixer of transformers."""
    inner = values.needed("mamba_expand") * hidden
    states, kernel = values.needed("mamba_d_state"), values.number("mamba_d_conv") or 4
    rank = -(-hidden // 16) if values.config.get("mamba_dt_rank") in (None, "auto") else values.needed("mamba_dt_rank")
    numbers = 3 * hidden * inner + inner * (kernel + 1) + inner * (rank + 2 * states) + rank * inner + inner
    return numbers + inner * states + inner + rank + 2 * states


def _mamba_2(values: Values, hidden: int) -> int:
    """Mamba-2 (arXiv 2405.21060), as GraniteMoeHybridMambaLayer and NemotronHMamba2Mixer of transformers."""
    heads, width = values.needed("mamba_n_heads", "mamba_num_heads"), values.number("mamba_head_dim")
    if width is None:
        given = values.config.get("mamba_d_head")
        width = values.needed("mamba_expand") * hidden // heads if given == "auto" else values.needed("mamba_d_head")
    groups, states = values.needed("mamba_n_groups", "n_groups"), values.needed("mamba_d_state", "ssm_state_size")
    inner = heads * width
    mixed = inner + 2 * groups * states
    kernel = values.number("mamba_d_conv", "conv_kernel") or 4
    return hidden * (inner + mixed + heads) + mixed * (kernel + 1) + 3 * heads + inner + inner * hidden
