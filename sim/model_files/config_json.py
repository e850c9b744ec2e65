"""Sizes of a model from its own `config.json`, for `model=FOLDER` and `model=config.json`.

It names the same things in many ways; what a name means here is what the model's code in transformers does with it.
What cannot be read off for certain is refused: layers of an unknown kind, an unknown quantisation.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim.model_files.bits import stored_bits
from sim.model_files.layers import (
    COMPRESSED,
    DENSE,
    EXPERTS,
    INDEXED,
    NO_FEED,
    NONE,
    SPARSE,
    STATE,
    WINDOW,
    Layer,
    cached_numbers,
    heads_of,
    layers_of,
    mixer_numbers,
    short_window,
    window_of,
)
from sim.model_files.values import Values
from traces.errors import UserError
from traces.special_files import require_regular
from traces.whole_input import read_json_value

COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k", "moe_top_k",
    "num_activated_experts",
)  # fmt: skip
OWN_FFN = ("moe_intermediate_size", "expert_ffn_hidden_size", "expert_hidden_dim")
BOTH_FFN = ("jamba",)
"""Families whose `intermediate_size` is that of experts and of dense layers."""
DENSE_FFN = ("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size")
SHARED_COUNT = (
    "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert", "n_shared_expert"
)  # fmt: skip
SHARED_WIDTH = (
    "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_experts_intermediate_size",
    "share_expert_dim",
)  # fmt: skip
SHARED_GATE = ("qwen2_moe", "qwen3_next", "qwen3_5_moe", "qwen4_exp")
"""Families whose shared expert is weighed by a gate of its own."""
NO_GATE = ("relu2",)
"""Activations of experts without a gate: two matrices."""
TEXT = ("text_config", "language_config", "llm_config", "thinker_config")
"""Where a multimodal model keeps the configuration of its language model."""
TIED = ("tie_word_embeddings",)
"""What holds of the whole model is said outside."""
UNLIKE = {
    "axk2": "norms have matrices of their own",
    "diffusion_gemma": "it makes many tokens at once",
    "doge": "experts are rows of two tables",
    "jetmoe": "attention is made of experts, too",
    "openai_privacy_filter": "it makes no text",
}
"""Families that these sizes cannot express, with the reason."""
COMPARED = (
    "afmoe", "aria", "aria_text", "axk1", "bailing_hybrid", "beam", "cohere2_moe", "dbrx", "deepseek",
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo",
    "flint", "gemma4", "gemma4_text", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "gpt_oss",
    "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "jamba",
    "kimi_k2", "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "llama4", "llama4_text", "longcat_flash", "mellum",
    "mimo_v2_flash", "minimax", "minimax_m2", "mistral4", "mixtral", "nemotron_h", "olmoe", "phimoe", "qwen2_moe",
    "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "solar_open",
)  # fmt: skip
"""Families whose parameters a test counts, or whose sizes it compares with published totals."""


def read_config_json(path: Path) -> dict[str, Any]:
    """Fields of `sim.machine.model.Dimensions` of the model in a folder, or of a `config.json` itself.

    Raises: UserError naming the file and what it lacks, or what these sizes cannot express.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise UserError(f"model={path}: {file} does not exist: must be a folder with a config.json, or such a file")
    require_regular(file)
    content = read_json_value(file, f"model={path}: the file")
    if not isinstance(content, dict):
        raise UserError(f"model={path}: {file} must hold names and values")
    try:
        found, notes = read_values(Values(_text_part(content)))
    except UserError as error:
        raise UserError(f"model={path}: {file.name}: {error}") from error
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    return {"name": name, "source": "; ".join([f"its {file.name}", *notes])} | found


def _text_part(content: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model; that of a multimodal one lies deeper, with the quantisation outside."""
    for name in TEXT:
        inner = content.get(name)
        if isinstance(inner, dict):
            outer = {key: content[key] for key in TIED if content.get(key) is not None}
            return {key: value for key, value in content.items() if key not in TEXT} | _text_part(inner) | outer
    return content


def read_values(values: Values) -> tuple[dict[str, Any], list[str]]:
    """(all fields of the dimensions but name and source, sentences on what they leave out).

    Raises: UserError for what cannot be read off.
    """
    _refuse(values)
    hidden = values.needed("hidden_size", "d_model")
    inner = values.inner("ffn_config") or values  # DBRX
    experts = values.number(*COUNTS) or inner.needed(*COUNTS)
    layers = layers_of(values)
    routed = [at for at, layer in enumerate(layers) if layer.feed == EXPERTS]
    if not routed or (values.family.startswith("gemma4") and not values.flag("enable_moe_block")):
        raise UserError("no layer has routed experts")
    dense = sum(layer.feed == DENSE for layer in layers)
    expert_ffn = values.number(*OWN_FFN) or inner.number("ffn_hidden_size") or values.needed("intermediate_size")
    dense_ffn = _dense_ffn(values) if dense else 0
    matrices = 2 if values.config.get("mlp_hidden_act") in NO_GATE else 3
    mixers = Counter(layer.mixer for layer in layers)
    attention, cached = _all_mixers(values, layers, hidden)
    blocks = len(routed) + dense
    extra = 0
    extra += _per_layer_inputs(values, len(layers), hidden)
    if mixers[NONE]:  # a layer is a mixer or a block: mixers are spread over the layers with experts
        extra += dense * matrices * hidden * dense_ffn
        blocks, dense, dense_ffn = len(routed), 0, 0
    if values.family == "longcat_flash":  # two attentions and two dense blocks beside the experts of a layer
        attention, cached = 2 * attention, 2 * cached
        extra += len(layers) * 2 * matrices * hidden * values.needed("ffn_hidden_size")
    plain = heads_of(values, next((mixer for mixer in mixers if mixer not in (STATE, NONE)), STATE), hidden)
    found: dict[str, Any] = {
        "hidden_size": hidden,
        "num_layers": len(routed),
        "num_experts": experts,
        "top_k": values.number(*TOP_K) or inner.needed(*TOP_K),
        "expert_ffn": expert_ffn,
        "num_heads": plain.queries,
        "num_kv_heads": plain.cached,
        "head_dim": plain.key,
        "vocab_size": values.needed("vocab_size"),
        "dense_layers": dense,
        "dense_ffn": dense_ffn,
        "matrices": matrices,
        "attention_numbers": round(attention / blocks) + _hyper_connections(values, hidden),
        "kv_numbers": round(cached),
        "other_extra": extra,
        "tied": values.flag("tie_word_embeddings"),
    }
    found |= _shared(values, hidden, expert_ffn) | _biases(values, hidden, experts, expert_ffn)
    return found | stored_bits(values, routed[len(routed) // 2]), _notes(values, layers, mixers)


def _refuse(values: Values) -> None:
    """What these sizes cannot express."""
    unlike = next((name for name in UNLIKE if values.family.startswith(name)), None)
    if unlike is not None:
        raise UserError(f"model_type {unlike}: {UNLIKE[unlike]}, which these sizes do not express")
    if values.flag("is_encoder_decoder"):
        raise UserError("is_encoder_decoder=True: must be a model with a decoder only")
    if values.number("moe_latent_size"):
        raise UserError(
            f"moe_latent_size={values.number('moe_latent_size')}: experts of another width are not known here"
        )
    streams = next((name for name in ("hc_mult", "hc_count") if (values.number(name) or 0) > 1), None)
    if streams is not None and values.family != "deepseek_v4":
        raise UserError(f"{streams}={values.number(streams)}: sizes of several residual streams are not known here")


def _all_mixers(values: Values, layers: Sequence[Layer], hidden: int) -> tuple[int, float]:
    """Numbers of what mixes tokens and of norms, and numbers cached of one token, over all layers."""
    own = values.config.get("per_layer_config")  # transformers 5: what single layers set otherwise
    others = {int(key): value for key, value in own.items() if key.isdecimal()} if isinstance(own, dict) else {}
    kinds = Counter(
        (layer.mixer, json.dumps(others[at], sort_keys=True) if isinstance(others.get(at), dict) else "{}")
        for at, layer in enumerate(layers)
    )
    numbers = sum((layer.mixer != NONE) + (layer.feed != NO_FEED) for layer in layers) * hidden
    cached = 0.0
    for (mixer, changed), count in kinds.items():
        its = Values(values.config | json.loads(changed))
        numbers += count * mixer_numbers(its, mixer, hidden)
        cached += count * cached_numbers(its, mixer, hidden)
    return numbers, cached


def _dense_ffn(values: Values) -> int:
    named = values.number("intermediate_size_mlp", "dense_intermediate_size")
    if named:  # Llama-4, MiniMax-M3: intermediate_size is that of experts
        return named
    if not values.number(*OWN_FFN) and values.family not in BOTH_FFN:
        raise UserError("intermediate_size may be that of dense layers or of experts: moe_intermediate_size is not set")
    return values.needed(*DENSE_FFN)


def _shared(values: Values, hidden: int, expert_ffn: int) -> dict[str, int]:
    """Width of all shared experts of a layer, and numbers of their gate."""
    count, width = values.number(*SHARED_COUNT), values.number(*SHARED_WIDTH)
    if values.number("shared_intermediate_size"):  # Granite: one block of that width
        width, count = values.needed("shared_intermediate_size"), 1
    if values.family.startswith("hunyuan") and count is None:
        width, count = values.needed("intermediate_size"), 1
    if values.family.startswith("llama4"):  # one shared expert as wide as a routed one
        width, count = expert_ffn, 1
    if values.family.startswith("gemma4"):  # a dense block beside the experts of every layer
        width, count = values.needed("intermediate_size"), 1
    if width:
        gate = hidden if values.family.startswith(SHARED_GATE) else 0
        return {"shared_ffn": width * (1 if count is None else count), "shared_gate": gate}
    return {"shared_ffn": (count or 0) * expert_ffn, "shared_gate": 0}


def _biases(values: Values, hidden: int, experts: int, expert_ffn: int) -> dict[str, int]:
    """Biases of experts and of their router: gpt-oss alone has them."""
    if values.family != "gpt_oss":
        return {"expert_bias": 0, "router_bias": 0}
    return {"expert_bias": 2 * expert_ffn + hidden, "router_bias": experts}


def _per_layer_inputs(values: Values, layers: int, hidden: int) -> int:
    """Numbers of the matrices that add a vector of its own to each layer (Gemma); its table is read by rows."""
    width = values.number("hidden_size_per_layer_input") or 0
    return 3 * layers * hidden * width


def _hyper_connections(values: Values, hidden: int) -> int:
    """Numbers of a layer that mix several residual streams (DeepSeek-V4), before attention and before the experts."""
    streams = values.number("hc_mult") or 0
    return 2 * streams * hidden * (2 * streams + streams * streams) if values.family == "deepseek_v4" else 0


def _notes(values: Values, layers: Sequence[Layer], mixers: Counter[str]) -> list[str]:
    """What the time model does not see of these layers, one sentence each."""
    notes = []
    if mixers[WINDOW]:
        size = window_of(values)
        left_out = "their K and V, which do not grow, are left out"
        overstated = "reading K and V over longer contexts is overstated"
        notes.append(
            f"{mixers[WINDOW]} of {len(layers)} layers attend to {f'{size}' if size else 'a window of'} tokens only: "
            f"{left_out if short_window(values) else overstated}"
        )
    if mixers[STATE]:
        notes.append(
            f"{mixers[STATE]} of {len(layers)} layers keep a state instead of K and V, which is not read here, and "
            "attention has the mean size of all layers"
        )
    if mixers[INDEXED] or mixers[SPARSE] or mixers[COMPRESSED]:
        notes.append(
            f"attention reads at most {values.number('index_topk') or 'some'} chosen tokens: reading K and V over "
            "longer contexts is overstated, and the keys of the indexer are counted with K and V"
        )
    if values.number("num_nextn_predict_layers", "mtp_num_hidden_layers"):
        notes.append("layers that predict further tokens (MTP) are left out")
    if values.number("hidden_size_per_layer_input"):
        notes.append("the table of vectors that each layer adds is left out: single rows of it are read")
    if values.number("zero_expert_num"):
        notes.append("experts that compute nothing are not counted")
    if values.family not in COMPARED:
        notes.append(f"model_type {values.family[:60]!r} is none whose sizes were compared: ESTIMATED by names")
    return notes
