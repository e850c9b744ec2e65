"""Predict nothing."""

from dataclasses import dataclass

from policies.base import Prediction


@dataclass(frozen=True)
class NoPrediction(Prediction):
    """Predict nothing: the part switched off."""
