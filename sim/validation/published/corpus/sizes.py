"""Sizes of a row's model: the model by its name, its bits by the name of its quantisation or the size of its file."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from sim.machine.model import Dimensions, dimensions_from_config, kv_bytes_per_token, load_dimensions
from sim.validation.published.corpus.parts import SHIPPED
from sim.validation.published.corpus.tables import NUMBER, cell_number, read_csv
from traces.errors import UserError

MODELS = "models.csv"
NUMBERS = (
    "hidden_size", "num_layers", "num_experts", "top_k", "expert_ffn", "shared_ffn", "dense_layers", "dense_ffn",
    "attention_numbers", "vocab_size",
)  # fmt: skip
COLUMNS = ("model", "match", "conf", *NUMBERS, "kv_bytes", "parameters_b", "source")
KV_BITS = 16
"""Of a number of K or V, as runtimes keep them unless told otherwise."""
LEAST_BITS, MOST_BITS = 1.4, 17.0
"""Stored bits per weight that a name or a file's size may give; else it is the size of something else."""
BITS: tuple[tuple[str, float, float | None], ...] = (
    (r"\bbf16\b|\bfp16\b|\bf16\b", 16, 16),
    (r"fp4/fp8", 4.25, 8),
    (r"mxfp4_moe", 4.25, 8.5),
    (r"mxfp4", 4.25, None),
    (r"nvfp4", 4.5, 16),
    (r"w4a16|awq|gptq", 4.25, 16),
    (r"\bfp8\b", 8, 8),
    (r"q8_0|q8_k|\bint8\b(?! mtp)|8[- ]?bit", 8.5, 8.5),
    (r"q6_k|\bq6\b|iq6_k", 6.6, 6.6),
    (r"iq5_k", 5.5, 5.5),
    (r"q5_k|q5_\d|\bq5\b", 5.67, 5.67),
    (r"iq4_xs", 4.3, 4.3),
    (r"iq4_|q4_0", 4.5, 4.5),
    (r"q4_k_s", 4.6, 4.6),
    (r"q4_k_xl", 4.9, 4.9),
    (r"q4_k|q4km|\bq4\b|q4_1", 4.87, 4.87),
    (r"4[- ]?bit|\bint4\b", 4.5, 4.5),
    (r"iq3_xxs", 3.1, 3.1),
    (r"iq3_|q3_k_s", 3.5, 3.5),
    (r"q3_k|\bq3\b", 3.9, 3.9),
    (r"iq2_m", 2.7, 2.7),
    (r"iq2_xxs", 2.1, 2.1),
    (r"iq2|iq2_xs|iq2_s", 2.4, 2.4),
    (r"q2_k_xl", 3.0, 3.0),
    (r"q2_k|\bq2\b", 2.9, 2.9),
    (r"iq1_kt", 1.75, 1.75),
    (r"iq1_m", 1.9, 1.9),
    (r"iq1", 1.6, 1.6),
)
"""(name of a quantisation, stored bits of an expert's weight, of the rest; None: as the model is published).

Of whole files of each name, scales and the usual mixture of blocks included; blocks as in llama.cpp's ggml-common.h."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of `models.csv`; ``kv_bytes`` of one token and routing layer at 16 bits, None where not known."""

    name: str
    match: str
    dimensions: Dimensions
    kv_bytes: int | None
    parameters_b: float | None
    """All weights, to get bits from the size of a file."""


@cache
def shipped_models() -> tuple[KnownModel, ...]:
    """All rows of the shipped `models.csv`."""
    return read_models(SHIPPED / MODELS)


def read_models(path: Path) -> tuple[KnownModel, ...]:
    """The models of a file. Raises: UserError that names file, row, column, value and what is allowed."""
    return tuple(_model(path.name, cells) for cells in read_csv(path, COLUMNS))


def _model(file: str, cells: dict[str, str]) -> KnownModel:
    where = f"model={cells['model']!r}"
    try:
        re.compile(cells["match"])
    except re.error as error:
        raise UserError(f"{file} {where}: match={cells['match']!r}: must be a pattern: {error}") from None
    optional = {
        name: cell_number(file, where, name, cells[name]) if cells[name] else None
        for name in ("kv_bytes", "parameters_b")
    }
    kv = optional["kv_bytes"]
    if cells["conf"]:
        dimensions = load_dimensions(cells["conf"])
        if kv is None:
            kv = kv_bytes_per_token(dimensions, KV_BITS)
    else:
        sizes = {name: int(cell_number(file, where, name, cells[name] or "0")) for name in NUMBERS}
        attention = sizes.pop("attention_numbers")
        # Attention as one head of one number, and all that is left of its matrices as extra numbers.
        sizes |= {"num_heads": 1, "num_kv_heads": 1, "head_dim": 1}
        extra = attention - 4 * sizes["hidden_size"]
        dimensions = dimensions_from_config({"name": cells["model"], "attention_extra": extra, **sizes})
    return KnownModel(
        cells["model"], cells["match"], dimensions, None if kv is None else int(kv), optional["parameters_b"]
    )


def find_model(text: str) -> KnownModel | None:
    """The model that a row names; None where it names none of them, or two."""
    name = re.sub(r"[ _:]+", "-", text.lower())
    name = re.sub(r"\bqwen-(?=\d)", "qwen", name)  # "Qwen 3 30B"
    found = [known for known in shipped_models() if re.search(known.match, name)]
    return found[0] if len(found) == 1 else None


def bits_of(quantisation: str, known: KnownModel) -> tuple[float, float] | None:
    """(stored bits of a weight of an expert, of the rest): stated, else by the file's size, else by name; or None.

    >>> bits_of("IQ3_KS 3.65 bpw", shipped_models()[0])
    (3.65, 3.65)
    """
    text = quantisation.lower()
    stated = re.search(rf"({NUMBER}) ?bpw", text)
    if stated:
        bits = float(stated[1].replace(",", ""))
        return (bits, bits) if LEAST_BITS <= bits <= MOST_BITS else None
    named = next(((of_experts, rest) for name, of_experts, rest in BITS if re.search(name, text)), None)
    size = re.search(rf"({NUMBER}) ?(gib|gb)\b", text)
    alike = named is None or named[0] == named[1]
    if size and known.parameters_b and alike:
        bits = 8 * float(size[1]) * (2**30 if size[2] == "gib" else 1e9) / (known.parameters_b * 1e9)
        if LEAST_BITS <= bits <= MOST_BITS and (named is None or abs(bits / named[0] - 1) < 0.25):
            return bits, bits
    if named is None:
        return None
    return named[0], known.dimensions.other_bits if named[1] is None else named[1]


def sized(known: KnownModel, bits: tuple[float, float], top_k: int | None = None) -> Dimensions:
    """The model's dimensions with these bits, K and V at 16 bits, and ``top_k`` experts a token where that is given."""
    dimensions = replace(known.dimensions, weight_bits=bits[0], other_bits=bits[1], stored_kv_bytes=known.kv_bytes or 0)
    return dimensions if top_k is None else replace(dimensions, top_k=top_k)
