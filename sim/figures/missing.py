"""What a figure says when its table lacks what it shows."""

from traces.errors import UserError


class MissingData(UserError):
    """A figure cannot be drawn from these results; the sentence names the command that gives what it needs."""
