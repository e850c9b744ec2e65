"""A model with a policy inside it, as a language model of EleutherAI's lm-evaluation-harness (extra `lm-eval`).

Every request begins with the cache as at the start, as a window of ``python -m sim quality`` does. Log-likelihoods take
one parallel pass each, continuations run token by token with the clock in the loop.
Source: https://github.com/EleutherAI/lm-evaluation-harness.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.quality.generation import continuation
from sim.quality.loop import Variant
from sim.quality.parallel import parallel
from sim.quality.study import Study
from traces.errors import UserError
from traces.recording.loading import LoadedModel

if TYPE_CHECKING:
    import torch


def tapped_lm(loaded: LoadedModel, study: Study, variant: Variant | None = None) -> Any:
    """An ``lm_eval.api.model.LM`` that answers as the model does with the study's policy active.

    Raises: UserError where lm_eval is not installed, or the policy cannot run in a parallel pass.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError("lm_eval is not installed: pip install 'moe-offload-sim[lm-eval]'") from error
    if not study.parallel or not study.loop.resets:
        raise UserError(
            "the harness runs requests in one pass each: a policy that mode=parallel refuses cannot be used"
        )
    active = variant or Variant("policy", scheme=study.config.quality.weights)

    class TappedLM(HFLM):  # type: ignore[misc, no-any-unimported, unused-ignore]
        """HFLM whose forward pass has the policy in it."""

        def _model_call(self, inps: torch.Tensor, attn_mask: Any = None, labels: Any = None) -> torch.Tensor:
            """Logits [B, S, V] of requests [B, S]."""
            import torch

            if attn_mask is not None or labels is not None:
                raise UserError("only causal language models without padding are evaluated: use batch_size=1")
            return torch.stack([passed.logits for passed in parallel(study.loop, inps.cpu().numpy(), active)])

        def _model_generate(self, context: torch.Tensor, max_length: int, stop: Any, **kwargs: Any) -> torch.Tensor:
            """Greedy continuation [1, max_length] of a context [1, P]."""
            import torch

            if kwargs.get("do_sample") or kwargs.get("temperature", 0.0) or len(context) > 1:
                raise UserError(
                    "continuations with a policy are greedy and one at a time: do_sample=false, batch_size=1"
                )
            max_tokens = study.loop.spec.max_tokens
            if context.shape[1] > max_tokens:
                raise UserError(f"tokens={max_tokens}: a prompt of {context.shape[1]} tokens needs at least as many")
            new = max_length - context.shape[1]
            tokens, _ = continuation(study.loop, context[0].cpu().numpy(), new, active)
            return torch.cat([context, torch.from_numpy(tokens)[None].to(context.device)], dim=1)

    return TappedLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal", batch_size=1)


def evaluate_offline(model: Any, task_folder: Path, tasks: list[str]) -> dict[str, dict[str, Any]]:
    """Results by task of the yaml files in a folder; ``model`` is an ``LM``."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(task_folder), include_defaults=False)
    evaluation = lm_eval.simple_evaluate(
        model=model, tasks=tasks, task_manager=manager, verbosity="ERROR", bootstrap_iters=0
    )
    return {task: dict(evaluation["results"][task]) for task in tasks}
