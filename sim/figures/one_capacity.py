"""Figures that compare runs at one capacity: which one that is, and the sentence that says it."""

import pandas as pd

USUAL_CAPACITY = 0.25
"""Share of the experts at which `python -m sim run` has its default."""


def one_capacity(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of each set-up at the capacity that most of its contenders share.

    Of several the one nearest to a quarter of the experts, where `python -m sim run` has its default.

    A contender that has only one capacity, such as `all_resident`, keeps it.
    """
    kept: list[pd.DataFrame] = []
    for _, group in table.groupby("setup", sort=False):
        alone = group.groupby("contender")["capacity"].transform("nunique") == 1
        idle = alone & ~group["capacity"].between(0, 1, inclusive="neither")  # all resident, nothing kept
        counts = group[~idle if not idle.all() else idle].groupby("capacity")["contender"].nunique()
        common = min(counts.index[counts == counts.max()], key=lambda share: abs(float(share) - USUAL_CAPACITY))
        kept.append(group[(group["capacity"] == common) | alone])
    return pd.concat(kept) if kept else table


def capacity_words(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """At which capacity `runs` are, and which others of `table` are not shown; empty where it has one only."""
    shown, known = (
        sorted(set(rows.loc[rows["capacity"].between(0, 1, inclusive="neither"), "capacity"])) for rows in (runs, table)
    )
    others = [share for share in known if share not in shown]
    if not shown or not others:
        return ""
    words = [" and ".join(f"{100 * share:.3g}" for share in shares) for shares in (shown, others)]
    return f"At {words[0]} % of the experts (runs at {words[1]} % are not shown)"


def capacity_sentence(table: pd.DataFrame) -> str:
    """The capacities of the set-ups as a sentence; one where they are all the same."""
    shares = {}
    for setup, group in table.groupby("setup", sort=False):
        inner = group.loc[group["capacity"].between(0, 1, inclusive="neither"), "capacity"]
        if len(inner):
            shares[str(setup)] = f"{100 * inner.mode().iloc[0]:.3g} % of the experts"
    if len(set(shares.values())) == 1:
        return f" Capacity: {next(iter(shares.values()))}."
    return f" Capacity: {'; '.join(f'{share} on {setup}' for setup, share in shares.items())}." if shares else ""
