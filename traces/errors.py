"""The one error that bad input of any kind raises."""


class UserError(ValueError):
    """Bad input: the message is one complete sentence that names the field, the value and what is allowed.

    `python -m sim` prints it after "error: " and exits with code 2.
    """
