"""Numbers as text: shares, times, sizes and intervals; a dash stands for what is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TypeGuard

UNKNOWN = "-"
DEPTHS = ("layers", "model_layers", "recorded_layers")
"""What `of_layers` takes, in a provenance: layers that were replayed, those of the model, those that were recorded."""
BY_REPEATING = " (ESTIMATED: "
"""Where `of_layers` goes on to say that layers repeat recorded ones."""
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def is_known(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object, form: str = ".4g", scale: float = 1.0, unit: str = "", unknown: str = UNKNOWN) -> str:
    """A number times ``scale`` in a format of Python, with its unit."""
    return f"{float(value) * scale:{form}}{unit}" if is_known(value) else unknown


def percent(value: object, form: str = ".1f", unit: str = "%") -> str:
    """A share in percent."""
    return number(value, form, 100.0, unit)


def milliseconds(value: object, form: str = ".3f") -> str:
    """Seconds in milliseconds."""
    return number(value, form, 1e3, " ms")


def size(value: object) -> str:
    """Bytes in the largest decimal unit that leaves at least one whole."""
    if not is_known(value):
        return UNKNOWN
    unit, name = next(((unit, name) for unit, name in SIZES if value >= unit), (1.0, "B"))
    return f"{value / unit:.1f} {name}"


def interval(low: object, high: object, form: str = ".4g", scale: float = 1.0) -> str:
    """``[low, high]``, or nothing where it is not known."""
    if not (is_known(low) and is_known(high)):
        return ""
    return f"[{number(low, form, scale)}, {number(high, form, scale)}]"


def with_interval(text: str, low: object, high: object, form: str = ".4g", scale: float = 1.0) -> str:
    """A number's text, followed by its interval where that is known."""
    return f"{text} {interval(low, high, form, scale)}".rstrip()


def form_of(shares: Sequence[float]) -> str:
    """Digits of a share in percent with the ends of its interval: one more where an end would be 0.0 and is not."""
    ends = [100 * share for share in shares[1:] if is_known(share) and share != 0.0]
    return "+.2f" if any(abs(end) < ROUNDS_TO_0 for end in ends) else "+.1f"


ROUNDS_TO_0 = 0.05


def of_layers(layers: object, model_layers: object, recorded: object = None) -> str:
    """How much of a model a time is for, as "for 6 of 27 layers"; "for all 27 layers"; empty where it is not known.

    ``recorded``: layers that were recorded, where the replayed ones repeat them.
    """
    if is_known(layers) and is_known(recorded):
        return f"{of_layers(layers, model_layers)}{BY_REPEATING}{recorded:.0f} recorded, {repeated(layers, recorded)})"
    if not is_known(layers):
        return ""
    if not is_known(model_layers):
        return f"for {layers:.0f} layers"
    return (
        f"for all {layers:.0f} layers" if layers == model_layers else f"for {layers:.0f} of {model_layers:.0f} layers"
    )


def repeated(layers: float, recorded: float) -> str:
    """How often recorded layers are gone through, as "repeated 4.5 times"."""
    return f"repeated {layers / recorded:.3g} times"


def shortlist(names: Sequence[str], count: int, separator: str = ", ") -> str:
    """The first names, and how many more."""
    return separator.join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
