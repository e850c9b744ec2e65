"""How much expert memory the device has: from the `cache` knobs to bytes per pool."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from sim.ranges import Amount, OneOf, Range, check_ranges
from traces.errors import UserError
from traces.format.trace import Trace

DEFAULT_FRACTION = 0.25
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The `cache` group of the configuration.

    At most one of ``fraction``, ``slots_per_layer`` and ``bytes`` is given; none means ``fraction=0.25``.
    """

    fraction: Annotated[float | None, Range(0, 1, above=True)] = None
    """Of all experts, rounded down to whole slots per layer."""
    slots_per_layer: int | None = None
    bytes: int | str | None = None
    """Of all layers together; ``auto``: what everything else leaves of the device's memory, KV at every step's context
    (`sim.machine.memory`)."""
    workspace_bytes: Amount = 1_000_000_000
    """Of ``bytes=auto``: what the runtime holds beside weights, K and V: its context, activations, buffers."""
    scope: Annotated[str | None, OneOf("layer", "global")] = None
    """``layer``: each layer has its own pool (bytes are cut in equal slices); ``global``: one pool for all; None:
    as the policy says, see ``settled_by``."""
    semantics: Annotated[str, OneOf("step", "sequential")] = "step"
    """``step``: a layer's demand is atomic; ``sequential``: one access at a time, for comparison with generic cache
    simulators only."""
    overflow: Annotated[str, OneOf("stream", "hold")] = "stream"
    """What happens when a layer step demands more than the capacity. ``stream``: the capacity is strict, the rest goes
    through staging slots; ``hold``: the step stays whole until the next one evicts (no clock)."""
    start: Annotated[str | None, OneOf("cold", "warm", "profile")] = None
    """``cold``: empty; ``warm``: filled with the experts of highest initial priority, else in order of layer and
    expert; ``profile``: with those that other requests used most (a static placement is what its rule says, whatever
    stands here); None: as the policy says."""
    reset: Annotated[str, OneOf("never", "request", "all")] = "never"
    """What every lockstep batch finds as at the start. ``request``: residency and the eviction rule's memory;
    predictions, prefetches, substitutions and assignments keep what they have learned. ``all``: that too, and the
    counter that random rules draw by, so that the order of requests does not matter."""

    def __post_init__(self) -> None:
        check_ranges(self, "cache.")
        given = [name for name in ("fraction", "slots_per_layer", "bytes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"cache.{given[0]} and cache.{given[1]} are both set: give the capacity in one way only")
        if isinstance(self.bytes, str) and self.bytes != AUTO:
            raise UserError(f"cache.bytes={self.bytes}: must be a whole number, auto or null")
        if isinstance(self.bytes, int) and self.bytes < 1:
            raise UserError(f"cache.bytes={self.bytes}: must be at least 1")
        if self.auto and self.holds:
            raise UserError(
                "cache.overflow=hold keeps steps whole, beyond the memory that cache.bytes=auto leaves: use stream"
            )
        if self.slots_per_layer is not None and self.slots_per_layer < 1:
            raise UserError(f"cache.slots_per_layer={self.slots_per_layer}: at least 1 slot is needed")

    def settled_by(self, policy: Policy) -> CacheConfig:
        """With the policy's own scope and start where none is given."""
        return replace(self, scope=self.scope or policy.scope, start=self.start or policy.start)

    @property
    def auto(self) -> bool:
        """Whether the capacity is what everything else leaves of the device's memory."""
        return self.bytes == AUTO

    def require_fixed(self) -> None:
        """Raises: UserError where the capacity follows contexts that are not known beforehand."""
        if self.auto:
            raise UserError(
                "cache.bytes=auto follows the contexts of requests that are replayed: here give cache.fraction, "
                "cache.slots_per_layer or cache.bytes as a number"
            )

    @property
    def resets(self) -> bool:
        """Whether every lockstep batch finds the cache as at the start."""
        return self.reset != "never"

    @property
    def forgets(self) -> bool:
        """Whether every lockstep batch finds all rules as at the start, too."""
        return self.reset == "all"

    @property
    def holds(self) -> bool:
        """Whether a step that demands more than the capacity stays whole until the next one evicts."""
        return self.overflow == "hold"

    @property
    def sequential(self) -> bool:
        """Whether accesses are looked up one at a time."""
        return self.semantics == "sequential"

    @property
    def warm(self) -> bool:
        """Whether the cache is full at the start."""
        return self.start in ("warm", "profile")

    @property
    def profiled(self) -> bool:
        """Whether other requests say what the cache is filled with at the start."""
        return self.start == "profile"


@dataclass(frozen=True, slots=True)
class Pools:
    """Byte pools of the device."""

    pool_of: NDArray[np.int64]
    """[L] pool of a layer."""
    capacity: NDArray[np.int64]
    """[P] bytes."""
    size: NDArray[np.int64]
    """[L] bytes of one expert."""
    num_experts: int

    @property
    def total_bytes(self) -> int:
        return int(self.capacity.sum())

    @property
    def model_bytes(self) -> int:
        """Bytes of all experts of all layers."""
        return int(self.size.sum()) * self.num_experts

    @property
    def fraction(self) -> float:
        """Share of all expert bytes that fits: of each pool no more than its layers have."""
        model = np.bincount(self.pool_of, self.size.astype(np.float64) * self.num_experts, self.capacity.size)
        return float(np.minimum(self.capacity, model).sum() / model.sum())

    def slots(self) -> float:
        """Mean number of experts per layer that fit."""
        return self.fraction * self.num_experts


def make_pools(
    config: CacheConfig, policy: Policy, expert_bytes: tuple[int, ...], num_experts: int, others: Trace | None = None
) -> Pools:
    """The pools that a policy's residency and allocation and the configuration give.

    ``others``: requests that an allocation may learn from.

    Raises: UserError where less than one expert of some layer fits, or more slots are asked for than there are experts.
    """
    config.require_fixed()
    residency = policy.residency
    size = np.array(expert_bytes, dtype=np.int64)
    layers = size.size
    pool_of = np.zeros(layers, np.int64) if config.scope == "global" else np.arange(layers, dtype=np.int64)
    if residency == "none":
        return Pools(pool_of, np.zeros(pool_of.max() + 1, np.int64), size, num_experts)
    per_layer = _layer_bytes(config, residency, size, num_experts)
    if residency == "cache" and config.scope != "global" and not policy.allocation.uniform:
        total = int((per_layer // size).sum())
        per_layer = policy.allocation.slots(total, num_experts, others, size) * size
    capacity = np.array([per_layer.sum()]) if config.scope == "global" else per_layer
    if isinstance(config.bytes, int) and residency == "cache" and config.scope == "global":
        capacity = np.array([config.bytes], np.int64)
    smallest = capacity[pool_of] // np.maximum(size, 1)
    if (smallest < 1).any():
        layer = int(np.argmin(smallest))
        raise UserError(
            f"cache capacity {int(capacity[pool_of[layer]])} bytes: at least 1 slot is needed, and one expert of layer "
            f"{layer} takes {int(size[layer])} bytes"
        )
    return Pools(pool_of, capacity.astype(np.int64), size, num_experts)


def _layer_bytes(config: CacheConfig, residency: str, size: NDArray[np.int64], num_experts: int) -> NDArray[np.int64]:
    if residency == "all":
        return size * num_experts
    if config.slots_per_layer is not None:
        if config.slots_per_layer > num_experts:
            raise UserError(f"cache.slots_per_layer={config.slots_per_layer}: a layer has {num_experts} experts")
        return size * config.slots_per_layer
    if isinstance(config.bytes, int):
        return np.full(size.size, config.bytes // size.size, np.int64)
    fraction = DEFAULT_FRACTION if config.fraction is None else config.fraction
    slots = floor(fraction * num_experts + 1e-9)
    if slots < 1:
        raise UserError(f"cache.fraction={fraction:g}: of {num_experts} experts that is less than 1 slot per layer")
    return size * slots
