"""How the embedded demo model is made: every number that its weights depend on.

The gate slope h = mean over active experts of ln(S_j / S_{k+1}), S the softmax gate scores in falling order, decides
how many active experts lie in a low-score band. Published models have .42 to .49. `demo_plain` trains as the library
does, with its auxiliary loss pooled over layers: h comes out at .63, and a random expert in place of a low-band one
does hardly more harm than the next-ranked. `demo` balances every layer by itself (alone that gave .47) and holds h at
.42 with a term of its own. Figures: scripts/maintenance/demo_evidence.py, training seed 0.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from traces.errors import UserError

if TYPE_CHECKING:
    from transformers import OlmoeConfig

SLOPE_STATEMENT = "gate slope set by the training recipe to published statistics, not emergent"


LATER = ("router_noise", "distinct_weight")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Architecture, optimiser and losses of one demo model.

    `revision` is raised when the training code changes what comes out, so that an older cached model is not taken.
    `router_noise`: standard deviation of noise on the router's logits while training (`losses.noisy_choice`).
    `distinct_weight`: of the reward for experts that take distinct tokens (`losses.distinct_tokens`).
    """

    name: str
    seed: int = 0
    revision: int = 2
    num_layers: int = 6
    num_experts: int = 64
    top_k: int = 6
    hidden_size: int = 192
    expert_ffn_size: int = 64
    num_heads: int = 4
    vocab_size: int = 4096
    context_tokens: int = 256
    batch_size: int = 8
    steps: int = 420
    warmup_steps: int = 50
    learning_rate: float = 2e-3
    final_rate_share: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    balance_weight: float = 0.02
    balance_pooled: bool = False
    slope_weight: float = 0.5
    slope_target: float = 0.42
    router_noise: float = 0.0
    distinct_weight: float = 0.0

    @property
    def key(self) -> str:
        """16 hexadecimal digits over every field and the Python version, whose library is the training text.

        A field of `LATER` counts only where it is not 0: models trained before there was such a field stay found.
        """
        fields: dict[str, Any] = {name: value for name, value in asdict(self).items() if value or name not in LATER}
        fields["python"] = platform.python_version()
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def statement(self) -> str:
        """What a reader of any figure of this model must know about its gate slope."""
        if self.slope_weight:
            return SLOPE_STATEMENT
        return "gate slope as it emerged from plain training, no slope term (contrast to the demo model)"


RECIPES = {
    "demo": Recipe(name="demo"),
    "demo_plain": Recipe(name="demo_plain", slope_weight=0.0, balance_weight=0.01, balance_pooled=True),
}


def named_recipe(name: str, seed: int = 0) -> Recipe:
    """The recipe called `name` with this training seed.

    Raises:
        UserError: no recipe has that name.
    """
    if name not in RECIPES:
        raise UserError(f"model.recipe={name}: must be one of {', '.join(RECIPES)}")
    return replace(RECIPES[name], seed=seed)


def model_config(recipe: Recipe) -> OlmoeConfig:
    """The OLMoE configuration of a recipe: tied embeddings, gate weights renormalised over the chosen experts."""
    from transformers import OlmoeConfig

    from traces.demo.tokenizer import END_OF_TEXT_ID

    return OlmoeConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.expert_ffn_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        num_experts=recipe.num_experts,
        num_experts_per_tok=recipe.top_k,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        max_position_embeddings=recipe.context_tokens,
        bos_token_id=None,
        eos_token_id=END_OF_TEXT_ID,
        pad_token_id=None,
    )
