"""Trains a predictor on some requests of a trace and keeps the epoch that did best on others.

One thread, and random numbers from the seed alone: the same seed gives the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sim.predictors.inputs import Piece, RowSource
from sim.predictors.networks import Network
from sim.predictors.settings import TrainSettings


@dataclass(slots=True)
class History:
    """Mean binary cross-entropy after each epoch, nats per (token, layer, expert)."""

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The epoch that is kept, from 0."""
        return int(np.argmin(self.validation_loss))


def piece_loss(network: Network, source: RowSource, piece: Piece) -> Tensor:
    """Binary cross-entropy summed over the rows of a piece, averaged over layers and experts that are predicted."""
    logits, _ = network(source.read(*piece))  # [n, A, L, E]
    wanted = torch.as_tensor(source.targets(*piece)).float()[:, None].expand(logits.shape)
    mask = network.predicts
    loss = functional.binary_cross_entropy_with_logits(logits[:, mask], wanted[:, mask], reduction="none")
    return loss.mean(dim=(1, 2)).sum()


def train(
    network: Network,
    source: RowSource,
    training: list[Piece],
    validation: list[Piece],
    settings: TrainSettings,
) -> History:
    """Train ``network`` in place, ending with the weights of its best epoch."""
    from tqdm import tqdm

    optimizer = torch.optim.AdamW(
        (weight for weight in network.parameters() if weight.requires_grad),
        lr=settings.learning_rate,
        betas=(float(settings.beta1), float(settings.beta2)),
        weight_decay=settings.weight_decay,
    )
    history, best = History(), {}
    total = settings.max_epochs * -(-len(training) // settings.batch_requests)
    with tqdm(total=total, desc="training, stops early", unit="batch", mininterval=1.0) as progress:
        for epoch in range(settings.max_epochs):
            batches = _batches(training, settings, epoch)
            history.train_loss.append(_epoch(network, source, batches, optimizer, settings.clip_norm, progress))
            history.validation_loss.append(mean_loss(network, source, validation))
            progress.set_postfix(epoch=epoch + 1, validation=f"{history.validation_loss[-1]:.4f}", refresh=False)
            if history.best_epoch == epoch:
                best = {name: value.detach().clone() for name, value in network.state_dict().items()}
            elif epoch - history.best_epoch >= settings.patience:
                break
    network.load_state_dict(best)
    network.eval()
    return history


def mean_loss(network: Network, source: RowSource, pieces: list[Piece]) -> float:
    """Binary cross-entropy per (token, layer, expert) over pieces, without dropout."""
    network.eval()
    with torch.no_grad():
        total = sum(piece_loss(network, source, piece).item() for piece in pieces)
    return total / sum(stop - start for start, stop in pieces)


def _batches(pieces: list[Piece], settings: TrainSettings, epoch: int) -> Iterator[list[Piece]]:
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(pieces))
    for start in range(0, len(order), settings.batch_requests):
        yield [pieces[index] for index in order[start : start + settings.batch_requests]]


def _epoch(
    network: Network,
    source: RowSource,
    batches: Iterator[list[Piece]],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
    progress: Any,
) -> float:
    network.train()
    total, rows = 0.0, 0
    for batch in batches:
        size = sum(stop - start for start, stop in batch)
        optimizer.zero_grad(set_to_none=True)
        for piece in batch:  # one after the other: no padding, and memory of one request
            loss = piece_loss(network, source, piece) / size
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item() * size
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()
        rows += size
        progress.update()
    return total / rows
