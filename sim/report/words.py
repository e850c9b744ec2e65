"""Numbers as people read them."""

from __future__ import annotations

import math

NOTHING = "–"


def known(value: object) -> bool:
    """Whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(value: object, scale: float, form: str, unit: str = "") -> str:
    """A number times `scale`, or a dash."""
    return f"{float(value) * scale:{form}}{unit}" if isinstance(value, int | float) and known(value) else NOTHING


def percent(value: object) -> str:
    """A share in percent."""
    return shown(value, 100.0, ".1f", " %")


def milliseconds(value: object) -> str:
    """Seconds in milliseconds."""
    return shown(value, 1e3, ".2f", " ms")


def interval(low: object, high: object, scale: float, form: str) -> str:
    """ " [low, high]", or nothing where it is not known."""
    if not (known(low) and known(high)):
        return ""
    return f" [{shown(low, scale, form)}, {shown(high, scale, form)}]"
