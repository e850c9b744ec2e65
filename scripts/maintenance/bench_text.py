"""Writes the text on which `sim bench` measures quality: python -m scripts.maintenance.bench_text

A new text is a new version of the suite.

Held-out text of the running Python's library, as `python -m sim quality tokens=128` would take it, in tokens of the
demo model: with another Python it is another text, so it is kept.
"""

import json
import platform
import sys

from sim.bench.text import EVALUATED, FILE, LEARNED_FROM, TOKENS
from sim.quality.windows import make_windows
from traces.demo.shipped import shipped_model
from traces.recording.loading import load_model
from traces.whole_file import write_whole


def main() -> int:
    """Write the file -> 0."""
    tokenizer = load_model(str(shipped_model())).tokenizer
    windows = make_windows("builtin", tokenizer, EVALUATED + LEARNED_FROM, TOKENS, seed=0)
    rows = [
        {"document": document, "domain": domain, "tokens": tokens.tolist()}
        for document, domain, tokens in zip(windows.documents, windows.domains, windows.tokens, strict=True)
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps(f"standard library of Python {platform.python_version()}, modules that were not trained on")
    write_whole(FILE, f'{{"source": {head},\n"windows": [\n{lines}\n]}}\n'.encode())
    print(f"{len(rows)} windows in {FILE}: HASH is {windows.digest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
