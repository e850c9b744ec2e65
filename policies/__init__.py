"""Rules for keeping, predicting, fetching, replacing and placing experts: one rule per file."""

import traces  # noqa: F401  (settles where compiled code is cached)
