"""Score policies on a frozen suite of traces, machines, runtimes, budgets and batch sizes, and rank them.

usage: python -m sim bench [all] [POLICY ...] [out=FOLDER]

  python -m sim bench policy=importance                 its score, and its place among the package's own policies
  python -m sim bench policy=mine.yaml                  a policy of your own, see docs/own_policy.md
  python -m sim bench "policy=lru policy/assignment=two_pointer"    a policy with parts exchanged, in one word
  python -m sim bench all out=board                     every shipped policy; board/leaderboard.html and leaderboard.csv
  python -m sim bench all policy=mine.yaml out=board    one of your own among them, with intervals of its rank

POLICY: overrides of `run` that choose a policy, several in quotes. Score 0: as slow as on_demand, which keeps nothing;
score 1: as fast as all_resident; the mean over 18 cells, SIMULATED. Classes: lossless; and of policies that replace
experts, those whose KL divergence from the untouched demo model, MEASURED on a frozen text in every cell, is at most
0.0108 or 0.0313 nats per token, or above. Rules that see the future, and what cannot be measured (without torch, say),
are listed and not ranked. A policy with rules of one's own is tried first: see docs/own_policy.md for what is refused.
Of processor time on a slow core, once rules are compiled, which takes 20 to 60 s: three policies and the two ends 26 s,
of which measuring the quality of one takes 12; all 40 shipped policies two and a half minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sim.terminal import next_commands
from traces.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sim.bench.quality import Quality
    from sim.bench.suite import Played


ALL = ["all"]
"""The word for every shipped policy."""


def main(argv: list[str]) -> int:
    """Score and print -> 0. Raises: UserError for words that are no policy."""
    policies, folder = read(argv)
    from tqdm import tqdm

    from sim.bench.leaderboard import SHIPPED, table, text, write
    from sim.bench.score import score
    from sim.bench.suite import CELLS, ENDS, composed
    from traces.numba_cache import announce_compilation
    from traces.whole_file import check_folder

    if folder is not None:
        check_folder(folder)
    announce_compilation()
    every = ALL in policies
    chosen = [[f"policy={name}"] for name in shipped()] if every else []
    chosen += [one for place, one in enumerate(policies) if one not in (ALL, *chosen, *policies[:place])]
    ends = [[f"policy={name}"] for name in ENDS]
    wanted = [*ends, *(one for one in chosen if one not in ends)]
    ready = [(words, composed(words)) for words in wanted]
    with tqdm(total=len(wanted) * len(CELLS), unit=" replays", delay=2, disable=None, leave=False) as bar:
        tried = [_played(one, every and one[0] not in policies, bar.update) for one in ready]
    played = [(one, found) for (_, one), found in zip(ready, tried, strict=True) if found is not None]
    none, everything = (found for _, found in played[:2])
    qualities = _qualities(played)
    scores = [score(found, none, everything, one) for (_, found), one in zip(played, qualities, strict=True)]
    board = table(scores)
    print(text(board))
    if not every and SHIPPED.is_file():
        print(places(board))
    if folder is not None:
        write(folder, board)
        print(f"leaderboard in {folder}")
    print(next_commands(follow_up(policies, every)))
    return 0


def follow_up(policies: list[list[str]], every: bool) -> list[object]:
    """What to do after a score: rank the policies among all; where that is done, see them at several capacities."""
    own = [words for words in policies if words != ALL]
    if not every:
        return ["bench", "all", *(" ".join(words) for words in own), "out=board"]
    words = own[0] if own else ["policy=lru,importance"]
    return ["run", "-m", *words, "cache.fraction=0.125,0.25,0.5"]


def _played(policy: tuple[list[str], DictConfig], skip: bool, tell: Callable[[], object]) -> Played | None:
    """(words, what they compose) in all cells; None, said on standard error, where one of many cannot be replayed."""
    from sim.bench.fairness import check_fair
    from sim.bench.suite import ENDS, play

    words, composed = policy
    try:
        check_fair(composed, is_end=words in [[f"policy={name}"] for name in ENDS])
        return replace(play(composed, tell), name=label(words, str(composed.name)))
    except UserError as error:
        if not skip:
            raise
        print(f"not scored: {' '.join(words)}: {error}", file=sys.stderr)
        return None


def label(words: list[str], name: str) -> str:
    """What a policy is called on the board: its name, then its file where that is not its name, and what was exchanged.

    >>> label(["policy=lru", "policy/assignment=two_pointer"], "lru"), label(["policy=me/lru.yaml"], "lru")
    ('lru assignment=two_pointer', 'lru (me/lru.yaml)')
    """
    given = words[0].removeprefix("policy=")
    called = name if given in (name, f"{name}.yaml") and name not in _shadowed(given) else f"{name} ({given})"
    return " ".join([called, *(word[len("policy/") :] for word in words[1:])])


def _shadowed(given: str) -> list[str]:
    """Names that a file may not take without saying so."""
    return shipped() if given.endswith(".yaml") else []


def _qualities(played: list[tuple[DictConfig, Played]]) -> list[Quality | None]:
    """What was measured of each policy that replaces experts and is no bound; None for the others."""
    from tqdm import tqdm

    from sim.bench.quality import PASSES, measured

    replacing = [found.replaces and not found.sees_future for _, found in played]
    with tqdm(total=sum(replacing) * PASSES, unit=" passes", delay=2, disable=None, leave=False) as bar:
        return [
            measured(policy, found, bar.update) if replaces else None
            for (policy, found), replaces in zip(played, replacing, strict=True)
        ]


def read(argv: list[str]) -> tuple[list[list[str]], Path | None]:
    """(overrides of each policy, folder or None). Raises: UserError for any other word, and for none."""
    places = [word.removeprefix("out=") for word in argv if word.startswith("out=")]
    policies = [word.split() for word in argv if not word.startswith("out=")]
    if not policies or len(places) > 1 or "" in places:
        raise UserError("bench takes policies, as policy=lru, or the word all, and at most one out=FOLDER")
    for words in policies:
        if words == ALL:
            continue
        if "," in words[0]:
            raise UserError(f"bench: {words[0]}: one policy a word, as policy=lru policy=importance")
        bad = [word for word in words if not word.startswith(("policy=", "policy/", "policy.")) or "=" not in word]
        if not words or bad or not words[0].startswith("policy="):
            shown = " ".join(words)
            if bad == words and words[0] in shipped():
                raise UserError(f"bench: {shown!r} must be policy=NAME: did you mean policy={words[0]}?")
            raise UserError(f"bench: {shown!r} must be policy=NAME or policy=FILE, then overrides of that policy alone")
    return policies, Path(places[0]) if places else None


def shipped() -> list[str]:
    """Names of the package's policies."""
    from sim.paths import CONF, yaml_names

    return yaml_names(CONF / "policy")


def places(found: object) -> str:
    """Where each policy stands among the package's own of its class, by the scores that come with the package."""
    import pandas as pd

    from sim.bench.leaderboard import SHIPPED
    from sim.bench.score import CLASSES

    assert isinstance(found, pd.DataFrame)
    known = pd.read_csv(SHIPPED)
    lines = []
    for _, row in found[found["class"].isin(CLASSES)].iterrows():
        rivals = known[(known["class"] == row["class"]) & (known["policy"] != row["policy"])]
        better = int((rivals["score"] > float(row["score"])).sum())
        best = rivals.sort_values("score").iloc[-1] if len(rivals) else None
        said = "" if best is None else f"; the best of them is {best['policy']} with {best['score']:.4f}"
        lines.append(f"{row['policy']}: place {better + 1} of {len(rivals) + 1} in its class, {row['class']}{said}")
    return "\n".join(lines)
