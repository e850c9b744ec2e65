"""Execute exactly what the router picked."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Substitution


@dataclass(frozen=True)
class NoSubstitution(Substitution):
    """Execute exactly what the router picked: the part switched off."""

    one_layer: ClassVar[bool] = True
