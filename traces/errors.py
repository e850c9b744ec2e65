"""The one error that bad input of any kind raises."""

MOST_CHARACTERS = 1200
_END = 300


class UserError(ValueError):
    """Bad input: the message names the field, the value and what is allowed: `name=value: must be X`, no full stop.

    `python -m sim` prints it after "error: " and exits with code 2. Values quoted from a file cannot break the line,
    steer a terminal or fill a screen: the message is made printable and cut in the middle where it is too long.
    """

    def __init__(self, sentence: object = "") -> None:
        super().__init__(printable(str(sentence)))


def printable(text: str) -> str:
    """One line of printable characters: white space collapsed, others escaped, the middle of a long text left out."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS - _END]} ... {text[-_END:]}"
    words = " ".join(text.split())
    return words if words.isprintable() else "".join(map(_shown, words))


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
