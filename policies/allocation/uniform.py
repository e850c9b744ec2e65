"""The same number of slots for every layer."""

from dataclasses import dataclass

from policies.base import Allocation


@dataclass(frozen=True)
class Uniform(Allocation):
    """Equal slots; what does not divide goes to the first layers, one slot each.

    Source: plain practice, for example Eliseev and Mazur, section 3.1, https://arxiv.org/abs/2312.17238.
    """
