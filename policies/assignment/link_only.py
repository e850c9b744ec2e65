"""Every missing expert is copied over the link."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Assignment


@dataclass(frozen=True)
class LinkOnly(Assignment):
    """Copy all misses in the order of the demand (the engine's default). Badly: where the CPU idles beside a slow link.

    Source: plain offloading, for example https://arxiv.org/abs/2312.17238.
    """

    one_layer: ClassVar[bool] = True
