"""How people write the parts of a machine, in the words that the tables of parts match."""

from __future__ import annotations

import re
from collections.abc import Callable

from sim.validation.published.corpus.tables import NUMBER

CHANNELS = {
    "single": 1, "one": 1, "dual": 2, "two": 2, "quad": 4, "four": 4, "six": 6, "octa": 8, "eight": 8, "twelve": 12,
}  # fmt: skip
SPEED = r"(?<![\d.,])(?:[1-9]\d{3}|1\d{4})(?!\d| ?gi?b)"
"""Of RAM, in MT/s."""
_NAMED = rf"\b({'|'.join(CHANNELS)}|\d{{1,2}})[ -]?(?:ch\b|channels?)"
_FILLERS = r"\b(?:ram|memory|system|of|at|with|in|kit|dimm|sodimm|udimm|rdimm|ecc|unified|expo|xmp|cl ?\d+)\b"
_STICKS = r"(?<![\w.,-])(\d{1,2}) ?[x*] ?(\d{1,4}) ?gi?b\b|(?<![\w.,-])(\d{1,4}) ?gi?b ?[x*] ?(\d{1,2})\b"
_SPELT: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"_", " "),
    (r"(?<=\d),(?=\d{3} ?m[bi]?b?/s)", ""),  # 7,000 MB/s, before commas divide
    (r"\b(\d{1,4}) ?(?:g|gigs?|gigabytes?)\b(?!/|b)", r"\1 GB"),
    (r"\bpc([345])-?(\d{5})\d?\b", lambda found: f"DDR{found[1]}-{int(found[2]) // 8}"),
    (r"\bai max ?\+", "ai max"),
)
_SPLIT = r"[,;|\n]|\+|\s/\s|\s&\s|\sand\s|\swith\s"


def pieces_of(words: str) -> list[str]:
    """What is said of a machine, piece by piece: after commas and the like, rates in GB/s, sizes in GB.

    >>> pieces_of("rtx_4070 + i7-8700 with 64g ram, NVMe 3,500 MB/s")
    ['rtx 4070', 'i7-8700', '64 GB ram', 'NVMe 3.5 GB/s']
    """
    text = words
    for pattern, plain in _SPELT:
        text = re.sub(pattern, plain, text, flags=re.I)
    return [_in_gb(piece.strip()) for piece in re.split(_SPLIT, text, flags=re.I) if piece.strip()]


def _in_gb(piece: str) -> str:
    """Rates in MB/s and sizes of RAM in TB as GB; a drive's size stays as it is."""
    piece = re.sub(
        r"(?<![\w.])(\d{1,6}(?:\.\d{1,3})?) ?m(?:i?b|bytes?|egabytes?)/s(?:ec)?",
        lambda found: f"{float(found[1]) / 1000:g} GB/s",
        piece,
        flags=re.I,
    )
    return re.sub(
        r"(?<![\w.])(\d{1,3}(?:\.\d{1,3})?) ?ti?b(?=.*(?:\bram\b|memory|ddr\d))",
        lambda found: f"{1000 * float(found[1]):g} GB",
        piece,
        flags=re.I,
    )


def sticks_of(piece: str) -> int | None:
    """GB of RAM in sticks: 2x32 GB, 32GB x2."""
    found = re.search(_STICKS, piece, re.I)
    return None if found is None else int(found[1] or found[3]) * int(found[2] or found[4])


def ram_type_of(piece: str) -> str:
    """RAM as the rules of parts.csv read it, 2ch DDR5-5600, however it is said."""
    kind = re.search(r"(?:lp)?ddr\dx?", piece, re.I)
    named = re.search(_NAMED, piece, re.I)
    speed = re.search(SPEED, piece, re.I)
    channels = "" if named is None else f"{CHANNELS.get(named[1].lower(), named[1])}ch "
    return f"{channels}{kind[0] if kind else ''}{'-' + speed[0] if speed else ''}"


def unread_of(piece: str) -> list[str]:
    """Words about RAM that are not understood."""
    if not re.search(r"ddr\d", piece, re.I) or re.search(r"gb/s", piece, re.I):
        return []
    sizes = rf"{_STICKS}|(?:{NUMBER}) ?gi?b"
    known = rf"{_NAMED}|{sizes}|(?:lp)?ddr\dx?|{SPEED}(?: ?(?:mhz|mt/s|mts)\b)?|{_FILLERS}"
    rest = re.sub(known, " ", piece, flags=re.I)
    return [f"{rest.strip()!r} of {piece!r}"] if re.search(r"\w", rest) else []
