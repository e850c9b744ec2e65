"""Replays routing traces on a modelled device under pluggable policies. Start with ``python -m sim --help``."""

import traces  # noqa: F401  (settles where compiled code is cached)
