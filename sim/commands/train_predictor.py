"""Train a network to predict expert routing from a recorded trace, for policies such as moe_beyond.

usage: python -m sim train-predictor [OVERRIDES]

Learns from the LAST requests of the trace and is tested on the first; `python -m sim run` holds those out that the
predictor learned from. A replay of one of them is refused. For the embedded trace a predictor of either kind comes
with the package (policy.prediction.checkpoint=embedded, the default of policy=moe_beyond and policy=promoe).

examples:
  python -m sim train-predictor out=beyond.safetensors       MoE-Beyond's Transformer on the embedded trace
  python -m sim run policy=moe_beyond policy.prediction.checkpoint=beyond.safetensors
  python -m sim train-predictor predictor=promoe_mlp trace.path=my.safetensors trace.fit_requests=40
  python -m sim train-predictor predictor=moe_beyond predictor.inputs=both predictor.width=128

overrides (default):
  predictor=moe_beyond       moe_beyond | moe_beyond_paper (the published size) | promoe_mlp; predictor.* for its sizes
  predictor.causal=true      false: the published variant of MoE-Beyond, which reads the future of its request
  trace=demo                 or trace.path=FILE
  trace.fit_requests=null    learn from the last n requests; null: those trace.requests leaves out, else the last half
  trace.requests=null        test on the first n requests; null: on all it did not learn from
  trace.as_decode=false      true: count every row as a decode step (teacher-forced traces)
  train.seed=0               of weights, of the order of requests, of the choice of validation requests
  train.max_epochs=100, train.patience=3, train.batch_requests=1, train.learning_rate=0.002, train.weight_decay=0.01,
  train.beta1=0.9, train.beta2=0.98, train.clip_norm=1, train.validation_share=0.2
  train.float16=false        true: round the weights to 16 bits before they are measured and written: half the file
  out=null                   the predictor's file; null: predictor.safetensors in outputs/train_predictor/<date>

Nothing is written before the end. The table printed last compares with predictors that need no training: what is used
most (popularity), and what the token before used (previous token).
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from sim.hydra_command import output_folder, run_hydra_command
from sim.terminal import next_commands
from traces.errors import UserError
from traces.whole_file import check_place, printing_beside

if TYPE_CHECKING:
    from sim.predictors.checkpoint import Checkpoint
    from sim.predictors.inputs import RowSource
    from sim.predictors.networks import Network
    from sim.predictors.settings import TrainSettings
    from sim.predictors.split import Split
    from sim.predictors.training import History

COLUMNS = {
    "recall_at_k": "recall@k",
    "macro_f1_positive": "macro-F1",
    "macro_f1_published": "as published",
    "accuracy_published": "accuracy",
    "precision_at_half": "precision>.5",
    "recall_at_half": "recall>.5",
}


def main(argv: list[str]) -> int:
    """Run the command with its overrides -> exit code. Raises: UserError for bad input."""
    return run_hydra_command("train-predictor", argv, train_from)


def train_from(config: DictConfig) -> None:
    """Train what a composed configuration says, write the predictor and print how good it is."""
    from sim.assembly.build import open_trace
    from sim.config import TraceConfig, to_plain_dict, validate
    from sim.predictors.checkpoint import write_checkpoint
    from sim.predictors.inputs import RowSource, choose_inputs, vocabulary_of
    from sim.predictors.settings import MoeBeyondSettings, TrainSettings, network_settings
    from sim.predictors.split import split_requests

    kind, settings = network_settings(to_plain_dict(config.get("predictor"), "predictor"))
    train_settings = validate(TrainSettings, to_plain_dict(config.get("train"), "train"), "train.")
    trace_config = validate(TraceConfig, to_plain_dict(config.get("trace"), "trace"), "trace.")
    out = _out_file(config.get("out"))
    trace = open_trace(trace_config)
    if trace.synthetic:
        raise UserError(
            f"trace.card={trace_config.card or trace_config.path}: a predictor learns which experts follow which, and "
            "this routing is SYNTHETIC: train it on a recorded trace"
        )
    split = split_requests(trace.num_requests, trace_config, train_settings.validation_share, train_settings.seed)
    inputs = choose_inputs(settings, trace)
    rare = settings.min_count if isinstance(settings, MoeBeyondSettings) else 1
    vocabulary = vocabulary_of(trace, split.train if inputs.tokens else (), rare)
    source = RowSource(trace, inputs, vocabulary, trace_config.as_decode)
    checkpoint = learn(kind, settings, source, split, train_settings)
    with printing_beside(out):
        write_checkpoint(out, checkpoint)
        print(report(checkpoint, out))
        if out.is_file():
            knobs = [
                f"policy.prediction.checkpoint={out}",
                f"trace.fit_requests={trace.num_requests - min(split.learned)}",
            ]
            recorded = [] if trace_config.path is None else [f"trace.path={trace_config.path}"]
            print(next_commands(["run", f"policy={REPLAYS[kind]}", *recorded, *knobs]))


REPLAYS = {"moe_beyond": "moe_beyond", "promoe_mlp": "promoe"}
"""Kind of a predictor -> the policy that it is for."""


def learn(kind: str, settings: Any, source: RowSource, split: Split, train_settings: TrainSettings) -> Checkpoint:
    """Train a fresh network on the split's requests and measure it on its test requests."""
    import torch

    from sim.predictors.checkpoint import Checkpoint
    from sim.predictors.inputs import Shape
    from sim.predictors.networks import make_network, round_weights, tensors_of
    from sim.predictors.training import train
    from traces.torch_threads import single_thread

    shape = Shape.of(source.trace)
    longest = getattr(settings, "context", 512)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]), single_thread():
        torch.manual_seed(train_settings.seed)
        network = make_network(settings, shape, source.inputs, source.vocabulary.size)
        pieces = [source.pieces(part, longest) for part in (split.train, split.validation)]
        history = train(network, source, pieces[0], pieces[1], train_settings)
        print(f"trained in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        if train_settings.float16:
            round_weights(network)
        metrics = {
            "metrics": compare(network, source, split.learned, split.test),
            "validation_metrics": compare(network, source, split.train, split.validation),
        }
    record = training_record(source, split, train_settings, history) | metrics
    weights = tensors_of(network, train_settings.float16)
    return Checkpoint(kind, settings, shape, source.inputs, source.vocabulary, weights, record)


def compare(network: Network, source: RowSource, learned: tuple[int, ...], requests: tuple[int, ...]) -> dict[str, Any]:
    """Metrics on ``requests`` by predictor; distances that the network reaches have a line each.

    ``learned``: the requests that the predictors without training count.
    """
    from functools import partial

    from sim.predictors.forecast import Forecaster
    from sim.predictors.quality import measure, popular_scores, popularity, previous_scores

    forecaster, shares = Forecaster(network, source, 1), popularity(source, learned)
    found = {}
    for ahead, layers in enumerate(network.predicts.numpy()):
        name = f"trained, {ahead + 1} ahead" if len(network.predicts) > 1 else "trained"
        found[name] = measure(partial(forecaster.at_distance, ahead), source, requests, layers)
    every = network.predicts[0].numpy()
    found["popularity"] = measure(popular_scores(shares), source, requests, every)
    found["previous token"] = measure(previous_scores(source, shares), source, requests, every)
    return found


def training_record(source: RowSource, split: Split, settings: TrainSettings, history: History) -> dict[str, Any]:
    """Where a predictor comes from: what a replay checks and a reader wants to know."""
    from dataclasses import asdict

    import torch

    from sim.predictors.split import fingerprint

    trace = source.trace
    return {
        "trace_hash": trace.content_hash,
        "num_requests": trace.num_requests,
        "as_decode": source.as_decode,
        "train": list(split.train),
        "validation": list(split.validation),
        "test": list(split.test),
        "fingerprints": [fingerprint(trace, request) for request in split.learned],
        "settings": asdict(settings),
        "epochs": len(history.train_loss),
        "best_epoch": history.best_epoch + 1,
        "train_loss": history.train_loss,
        "validation_loss": history.validation_loss,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }


def report(checkpoint: Checkpoint, out: Path) -> str:
    """What was trained and how often it is right, beside the untrained."""
    training, inputs = checkpoint.training, checkpoint.inputs
    weights = sum(value.size for value in checkpoint.weights.values())
    seen = [name for name, used in (("token ids", inputs.tokens), ("previous experts", inputs.experts)) if used]
    seen += [inputs.signal.replace("_", " ")] if inputs.signal else []
    held = training["num_requests"] - min(training["train"] + training["validation"])
    size = f"{out.stat().st_size:,} bytes, " if out.is_file() else ""
    lines = [
        f"{out}  {size}{weights:,} weights; reads {', '.join(seen)}",
        f"learned from {len(training['train'])} requests, stopped by {len(training['validation'])} others after "
        f"{training['epochs']} epochs (kept epoch {training['best_epoch']}); tested on {len(training['test'])}",
        f"replay the rest with policy.prediction.checkpoint={out} trace.fit_requests={held}",
    ]
    if not checkpoint.settings.causal:
        lines.append("note: causal=false reads the FUTURE of its request: an oracle, not a predictor")
    for phase in ("all", "decode"):
        lines += ["", f"test requests, {phase} rows".ljust(28) + "".join(f"{name:>14}" for name in COLUMNS.values())]
        for name, metrics in training["metrics"].items():
            lines.append(f"  {name:<26}" + "".join(_cell(metrics[phase][key]) for key in COLUMNS))
    lines += [
        "recall@k: share of the routed experts among the k best scores (k = top-k, so it equals the precision);",
        "macro-F1: F1 of the chosen, averaged over layers and experts; as published: mean of the F1 of the chosen and "
        "of the not chosen",
    ]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>14}"


def _out_file(out: object) -> Path:
    from sim.config import path_of

    path = path_of("out", out) or output_folder() / "predictor.safetensors"
    check_place(path)
    return path
