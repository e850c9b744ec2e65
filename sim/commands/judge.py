"""Judge another tool's answers to the conformance vectors: small cases with every hit, byte and nanosecond worked out.

usage: python -m sim judge ANSWERS.json
       python -m sim judge vectors [out=FOLDER]

  python -m sim judge vectors out=vectors          the cases, a JSON file each: trace, policy, cache, machine, answers
  python -m sim judge mine.json                    right, WRONG with the first difference, or not answered, of each

ANSWERS.json: {"tool": NAME, "answers": {VECTOR: {"steps": [...], "totals": {...}}}} with whatever the tool knows of a
vector's own answers; docs/conformance/README.md describes them and has a reader of 42 lines of numpy.
Exit status: 0 where nothing is wrong, 1 where something is, 2 where the file cannot be read.
"""

from __future__ import annotations

from pathlib import Path

from sim.command_words import read_words
from sim.terminal import next_commands
from traces.errors import UserError


def main(argv: list[str]) -> int:
    """Judge or write the vectors -> 0, or 1 where an answer is wrong.

    Raises: UserError for a file that holds no answers.
    """
    from sim.conformance.judge import UNANSWERED, VECTORS, WRONG, judge
    from sim.results.json_files import read_json
    from traces.text import printable
    from traces.whole_file import check_folder, write_whole

    what, pairs = read_words("judge", argv, {"out": "FOLDER"}, "file of answers, or the word vectors")
    options = dict(pairs)
    if what == "vectors":
        folder = Path(options.get("out", "vectors"))
        check_folder(folder)
        for path in sorted(VECTORS.glob("*.json")):
            write_whole(folder / path.name, path.read_bytes())
        print(f"{len([*VECTORS.glob('*.json')])} vectors in {folder}")
        print(next_commands(["judge", "mine.json"]))
        return 0
    if "out" in options:
        raise UserError(f"out={options['out']}: only `judge vectors` writes files")
    if not Path(what).exists():
        raise UserError(f"{what}: there is no such file")
    answers = read_json(Path(what))
    verdicts = judge(answers)
    for one in verdicts:
        print(f"{one.name:<32}{one.outcome:<14}{one.compared:>4} values  {printable(one.why)}".rstrip())
    wrong, absent = (sum(one.outcome == word for one in verdicts) for word in (WRONG, UNANSWERED))
    tool = printable(str(answers.get("tool", "the tool")))
    print(f"{tool}: {len(verdicts) - wrong - absent} right, {wrong} wrong, {absent} not answered")
    if wrong or absent:
        print(next_commands(["judge", "vectors", "out=vectors"]))
    return 1 if wrong else 0
