"""The one error that bad input of any kind raises."""

from traces.text import printable


class UserError(ValueError):
    """Bad input: the message names the field, the value and what is allowed: `name=value: must be X`, no full stop.

    `python -m sim` prints it after "error: " and exits with code 2. Values quoted from a file cannot break the line,
    steer a terminal or fill a screen: the message is made printable and cut in the middle where it is too long.
    """

    def __init__(self, sentence: object = "") -> None:
        super().__init__(printable(str(sentence)))
