"""Writes the list of the rules that the tests have tried: `python -m scripts.maintenance.shipped_rules`.

Run it when a rule of the package has changed and the tests pass; until then it is tried before every run.
"""

from __future__ import annotations

import json

from sim.shipped_rules import LIST, digest_of, rule_sources


def main() -> None:
    listed = {module: digest_of(path) for module, path in rule_sources().items()}
    LIST.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    print(f"{len(listed)} rules in {LIST.name}")


if __name__ == "__main__":
    main()
