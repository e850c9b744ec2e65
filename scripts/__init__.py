"""Studies, benchmarks, stress tests and maintenance: `python -m scripts.PACKAGE.MODULE` in the repository's root.

No user of the simulator needs them, and they are not installed with it. They may import everything; nothing in `sim`,
`policies` or `traces` imports them.
"""
