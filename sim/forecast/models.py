"""The model of a forecast: a name, a `config.json` or a GGUF file, in its own bits or in those of a quantisation."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from sim.formatting import shortlist
from sim.machine.model import (
    Dimensions,
    dimensions_from_config,
    embedding_bytes,
    geometry,
    kv_bytes_per_token,
    load_dimensions,
    model_names,
    read_every_token_bytes,
)
from sim.model_files.config_json import read_config_json
from sim.model_files.gguf_header import read_gguf
from sim.plain_yaml import read_mapping
from sim.validation.published.corpus.sizes import BITS, KV_BITS, KnownModel, bits_of, find_model, shipped_models
from traces.errors import UserError

OWN_BITS, MANY_BITS = " bits a weight", 8
"""How bits that `quantisation=` did not name are said; as many as few run at home."""
MOST_NAMES = 12
"""Of models, in an error."""
_SIZE = re.compile(r"^(?:[a-z]?\d+(?:\.\d+)?[bm]|\d+x\d+b|a\d+(?:\.\d+)?b)$")
_VARIANT = re.compile(r"^(?:it|instruct|base|chat|thinking|coder|vl|moe|\d+bit|q\d.*|iq\d.*|ud|gguf|mxfp4|[bf]p?\d+)$")


@dataclass(frozen=True, slots=True)
class ForecastModel:
    """A model with sizes; ``quantisation`` in words, ``family`` what a routing card must share."""

    words: str
    dimensions: Dimensions
    quantisation: str
    family: str

    @property
    def known(self) -> KnownModel:
        """As the corpus sees it."""
        return KnownModel(self.dimensions.name, "", self.dimensions, self.dimensions.stored_kv_bytes, None)

    @property
    def smaller(self) -> str:
        """What to ask for where these are the published model's own bits and smaller files are usual; else empty."""
        if not self.quantisation.endswith(OWN_BITS) or self.dimensions.stored_expert_bytes:
            return ""
        if self.dimensions.weight_bits >= MANY_BITS:
            return "these are the bits of the published model: quantisation=Q4_K_M takes a file of four"
        if (self.dimensions.other_bits or 0) >= 2 * MANY_BITS:
            return "what is no expert has 16 bits here, as published; GGUF files with 8.5 there: quantisation=MXFP4_MOE"
        return ""

    @property
    def expert_bytes(self) -> tuple[int, ...]:
        """Of one expert of each MoE layer."""
        return geometry(self.dimensions).expert_bytes or ()

    @property
    def bytes(self) -> int:
        """Of all weights."""
        rest = read_every_token_bytes(geometry(self.dimensions))
        return self.dimensions.num_experts * sum(self.expert_bytes) + rest + embedding_bytes(self.dimensions)


def family_of(name: str) -> str:
    """What a model's name says of its family: what stands before its size.

    >>> family_of("qwen3_5_35b_a3b_q4"), family_of("Qwen3.5-397B-A17B-4bit"), family_of("gpt_oss_120b")
    ('qwen3-5', 'qwen3-5', 'gpt-oss')
    """
    words = re.sub(r"[\s_./]+", "-", Path(name).name.lower()).split("-")
    ends = (place for place, word in enumerate(words) if place and (_SIZE.match(word) or _VARIANT.match(word)))
    name = "-".join(words[: next(ends, len(words))])
    return SAME_FAMILY.get(name, name)


SAME_FAMILY = {"glm-5-1": "glm-5", "glm-5-2": "glm-5"}
"""Versions of one shape that `models.csv` has as one model."""


def read_model(words: str, quantisation: str | None) -> ForecastModel:
    """The model that `model=` names, in the bits that `quantisation=` names.

    Raises: UserError where there is none, or where the quantisation is not known or the file states its own.
    """
    dimensions = _dimensions(words)
    if quantisation is None:
        _check_bits_of_name(words, dimensions)
    kv = dimensions.stored_kv_bytes or kv_bytes_per_token(dimensions, KV_BITS)
    if quantisation is None:
        sized = replace(dimensions, stored_kv_bytes=kv)
        return ForecastModel(words, sized, f"{sized.weight_bits:.3g}{OWN_BITS}", family_of(dimensions.name))
    if dimensions.stored_expert_bytes:
        raise UserError(f"quantisation={quantisation}: {words} states its own bits: leave quantisation= out")
    plain = replace(
        dimensions, attention_bits=None, shared_bits=None, dense_bits=None, weight_bits=16.0, other_bits=16.0
    )
    bits = bits_of(quantisation, KnownModel(words, "", plain, kv, None))
    if bits is None:
        raise UserError(f"quantisation={quantisation}: must be one of {', '.join(quantisations())}, or bits as 4.5bpw")
    sized = replace(plain, weight_bits=bits[0], other_bits=bits[1], stored_kv_bytes=kv)
    return ForecastModel(words, sized, quantisation, family_of(dimensions.name))


def _check_bits_of_name(words: str, dimensions: Dimensions) -> None:
    """Raises: UserError for a name that says a quantisation and stands for a model in other bits."""
    whole = re.sub(r"(?<![a-z0-9])q8(?![_0-9])|(?<=_)q8(?![_0-9])", "q8_0", words.lower())
    name = re.sub(r"(?<=[a-z0-9])_(?=(?:i?q\d|bf16|fp\d|mxfp|nvfp|awq|gptq|\d+ ?bit))", "-", whole)
    known = KnownModel(words, "", dimensions, None, None)
    told = bits_of(name.split("/")[-1], known)
    if words in model_names() or words.endswith((".gguf", ".json", ".yaml")) or dimensions.name == words:
        return
    if told is not None and abs(told[0] / dimensions.weight_bits - 1) > SAME_BITS:
        found = next((name for name in quantisations() if bits_of(name, known) == told), f"{told[0]:g}bpw")
        raise UserError(
            f"model={words} names a quantisation, and {dimensions.name} is in {dimensions.weight_bits:g} bits: give "
            f"model={dimensions.name} quantisation={found}"
        )


SAME_BITS = 0.2
"""Relative difference of bits that names of one quantisation have."""


def quantisations() -> list[str]:
    """Names that stand for bits, as people write them."""
    shown = (
        "BF16",
        "FP8",
        "MXFP4",
        "MXFP4_MOE",
        "NVFP4",
        "AWQ",
        "Q8_0",
        "Q6_K",
        "Q5_K_M",
        "Q4_K_M",
        "Q4_0",
        "IQ4_XS",
        "Q3_K_M",
    )
    more = ("IQ3_XXS", "Q2_K", "IQ2_XXS", "IQ1_M")
    return [name for name in (*shown, *more) if any(re.search(pattern, name.lower()) for pattern, _, _ in BITS)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have
        return False


def _dimensions(words: str) -> Dimensions:
    path = Path(words).expanduser()
    if words.endswith(".gguf"):
        return dimensions_from_config(read_gguf(path))
    if words.endswith(".json") or (words not in model_names() and _is_folder(path)):
        return dimensions_from_config(read_config_json(path))
    if words.endswith(".yaml"):
        return dimensions_from_config(read_mapping(path, f"model={words}: the file"))
    try:
        return load_dimensions(words)
    except UserError:
        known = find_model(words)
        if known is None:
            names = sorted({*model_names(), *(model.name for model in shipped_models())}, key=str.lower)
            near = get_close_matches(words.lower(), [name.lower() for name in names], 1)
            hint = f"did you mean {near[0]}?" if near else f"one of {shortlist(names, MOST_NAMES)}"
            raise UserError(
                f"model={words} is not known: must be a *.gguf file, a config.json, a folder that holds one, or a "
                f"name; {hint}"
            ) from None
        return replace(known.dimensions, name=known.name, stored_kv_bytes=known.kv_bytes)
