"""What a table that `python -m sim export` wrote says of its trace beside the rows."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from traces.errors import UserError
from traces.format.trace import Geometry, Trace

_COUNTS = ("num_layers", "num_experts", "top_k")


def said_of(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata where an export wrote it, else nothing."""
    return metadata if metadata.get("first_token") == 0 else {}


def restored(trace: Trace, said: Mapping[str, Any]) -> Trace:
    """The trace with the sizes, labels and kind of weights that its table says.

    Raises: UserError where these are not of the rows.
    """
    if not said:
        return trace
    names = {field.name for field in fields(Geometry)}
    sizes: dict[str, Any] = {}
    for name in names & set(said):
        sizes[name] = tuple(said[name]) if isinstance(said[name], list) else said[name]
    for name in _COUNTS:
        if sizes.get(name, getattr(trace.geometry, name)) != getattr(trace.geometry, name):
            raise UserError(f"the table says {name}={sizes[name]!r}, and its rows {getattr(trace.geometry, name)}")
    labels, function = said.get("request_labels"), said.get("score_function")
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise UserError("the table's request_labels must be a list of texts")
    weights = trace.topk_weights
    if weights is not None and said.get("weights") == "float16":
        weights = weights.astype(np.float16)
    return replace(
        trace,
        geometry=replace(trace.geometry, **sizes),
        ranked=said.get("ranked") is True,
        score_function=function if isinstance(function, str) else trace.score_function,
        topk_weights=weights,
        request_labels=None if labels is None else tuple(labels),
    )
