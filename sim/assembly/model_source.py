"""Which language model `record` and `quality` run: from the `model` group of a configuration to the loaded model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import DictConfig

from sim.config import to_plain_dict, validate
from sim.paths import CONF
from sim.ranges import OneOf, check_ranges
from traces.errors import UserError
from traces.recording.loading import DTYPES, check_source

if TYPE_CHECKING:
    from traces.recording.loading import LoadedModel

MISSING = "???"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A demo model of this tool, by its ``recipe`` and training ``seed``, or else a folder or hub id at ``path``."""

    recipe: str | None
    path: str | None
    seed: int = 0
    train: bool = False
    """Train a demo model here even where the package ships it."""
    dtype: Annotated[str, OneOf(*DTYPES)] = "auto"
    device: str = "cpu"
    device_map: str | None = None
    trust_remote_code: bool = False
    allow_download: bool = False
    network_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, "model.")

    def check(self) -> None:
        """Refuse, before anything slow is done, a model that cannot be there. Raises: UserError."""
        from traces.demo.recipe import named_recipe

        if self.recipe is not None:
            named_recipe(self.recipe, self.seed)
            return
        if self.path in (None, "", MISSING):
            raise UserError("model.path is not set: model=huggingface needs a folder or a hub id.")
        check_source(str(self.path), self.allow_download, self.network_timeout_s)

    def load(self) -> tuple[LoadedModel, dict[str, Any]]:
        """(the model, what its provenance must say beyond what the recorder knows); trains a demo model first."""
        from traces.recording.loading import LoadedModel, load_model

        if self.recipe is None:
            loaded = load_model(
                str(self.path),
                self.dtype,
                self.device,
                self.allow_download,
                self.network_timeout_s,
                device_map=self.device_map,
                trust_remote_code=self.trust_remote_code,
            )
            return loaded, {}
        from traces.demo.cache import demo_model, training_summary
        from traces.demo.recipe import named_recipe

        recipe = named_recipe(self.recipe, self.seed)
        folder = demo_model(recipe, train=self.train)
        loaded = load_model(str(folder), self.dtype, self.device)
        summary = training_summary(folder)
        statement: dict[str, Any] = {
            "recipe": recipe.name,
            "training_seed": recipe.seed,
            "training_corpus_sha256": summary["corpus_sha256"],
            "statement": recipe.statement,
            **{name: summary[name] for name in ("rounding", "weights_sha256") if name in summary},
        }
        return LoadedModel(loaded.model, loaded.tokenizer, recipe.name), statement


def model_source(config: DictConfig) -> ModelSource:
    """The source that a `model` group describes. Raises: UserError where the group only states sizes."""
    values = to_plain_dict(config, "model")
    if "recipe" not in values:
        raise UserError(
            f"model={values.get('name', '?')} only states sizes; record takes demo, demo_plain, a folder or a hub id."
        )
    return validate(ModelSource, values, "model.")


def model_overrides(argument: str) -> list[str]:
    """`model=<folder or hub id>` is short for `model=huggingface model.path=<it>`; anything else stays as it is."""
    name, _, value = argument.partition("=")
    if name != "model" or not value or "," in value or (CONF / "model" / f"{value}.yaml").is_file():
        return [argument]
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return ["model=huggingface", f"model.path='{quoted}'"]


def prepare_libraries(overrides: Sequence[str]) -> None:
    """Set what the model library reads once, when it is imported."""
    if not any(override.startswith("model.allow_download=") for override in overrides):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
