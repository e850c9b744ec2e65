"""Which requests a sample takes, so that they are spread over the data sets or conversations of a trace."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST_CLUSTERS = 6
"""Data sets or conversations that can stand for others of their kind; fewer are taken as given."""


def spread(clusters: Sequence[str] | None, total: int, count: int, seed: int) -> NDArray[np.int64]:
    """`count` of `total` requests, drawn without replacement, ascending, [count] int64.

    Every cluster gives one request, in an order that is drawn, then every cluster that has more gives a second, and so
    on: numbers differ by one at most where clusters are large enough. Without `clusters` [total] each request is one.
    A larger count of the same seed takes the same requests and more.
    """
    order = np.random.default_rng([seed, total]).permutation(total)
    if clusters is None:
        return np.sort(order[:count])
    names, cluster = np.unique(np.array(clusters[:total]), return_inverse=True)
    first = np.full(len(names), total)
    np.minimum.at(first, cluster[order], np.arange(total))  # where a cluster comes first in the drawn order
    drawn = cluster[order]
    grouped = np.argsort(drawn, kind="stable")  # cluster by cluster, each in the drawn order
    starts = np.searchsorted(drawn[grouped], np.arange(len(names)))
    turn = np.empty(total, np.int64)
    turn[grouped] = np.arange(total) - starts[drawn[grouped]]
    chosen = np.lexsort((first[drawn], turn))[:count]
    return np.sort(order[chosen])
