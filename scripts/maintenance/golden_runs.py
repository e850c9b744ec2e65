"""Checks that a list of runs writes the same bytes: python -m scripts.maintenance.golden_runs [--write] [ENGINE ...]

Every run replays the embedded trace; what is compared is the sha256 of its metrics.json with the one that
tests/golden/runs.json states. `--write` states them anew: only where a change of the results is meant, with a line in
CHANGELOG.md. The last bits of a float64 sum may differ on another kind of processor; compare on one machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sim.paths import CONF, ROOT, yaml_names

GOLDEN = ROOT / "tests" / "golden" / "runs.json"
SHORT = "trace.requests=8"
POLICIES = yaml_names(CONF / "policy")
SETTINGS = (
    "policy=importance",
    "policy=importance batch_size=3",
    "policy=importance batch_size=3 hardware=s2_rtx4060ti cache.fraction=0.5",
    "policy=importance hardware=s3_a6000 prefill_chunk=32 cache.slots_per_layer=9",
    "policy=importance cache.scope=global cache.start=warm",
    "policy=importance cache.reset=request model=qwen3_30b_a3b hardware=rtx4090",
    "policy=importance runtime.cuda_graphs=true runtime.memory=staged",
    "policy=importance runtime.memory=pageable time.contention=false",
    "policy=importance policy/allocation=miss_curve",
    "policy=importance what_if=true",
    "policy=lru batch_size=4 cache.slots_per_layer=6",
    "policy=lru cache.bytes=2000000000 trace.labels=[code]",
    "policy=lru cache.scope=global prefill_chunk=8",
    "policy=lru policy.write_back=overlap runtime.memory=staged",
    "policy=promoe policy/prediction=lookahead_after batch_size=2",
    "policy=hobbit batch_size=2 cache.fraction=0.5",
    "policy=deepspeed policy.write_back=serial",
    "policy=belady batch_size=2",
    "policy=importance timeline=true",
    "policy=importance runtime=cuda_graphs batch_size=3",
    "policy=ktransformers runtime=own",
    "policy=llama_cpp runtime=own",
    "policy=hybrimoe_paper runtime=eager_hf",
    "policy=all_resident runtime=ideal",
)
ONLY = {
    "untimed": (
        "policy=lru cache.overflow=hold",
        "policy=lru cache.semantics=sequential",
        "policy=belady cache.overflow=hold batch_size=2",
    ),
    "simpy": ("system=od_moe", "system=expert_streaming"),
}


def runs(engine: str) -> Iterator[str]:
    """The overrides of every run on an engine."""
    for name in POLICIES:
        yield f"policy={name} {SHORT}"
    for words in SETTINGS:
        if engine != "untimed" or not any(word in words for word in ("what_if", "timeline")):
            yield f"{words} {SHORT}"
    for words in ONLY.get(engine, ()):
        yield f"{words} {SHORT}"


def result(words: str, engine: str) -> str:
    """sha256 of the metrics.json of one run, or how it ended without one."""
    from sim.__main__ import main

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        problems = io.StringIO()
        try:
            with contextlib.redirect_stderr(problems):
                status = main(["run", f"engine={engine}", f"hydra.run.dir={folder}/run", *words.split()])
        except SystemExit as end:  # a refused configuration
            status = int(end.code or 0)
        if status:
            return f"exit {status}: {problems.getvalue().strip().splitlines()[-1]}"
        return hashlib.sha256(Path(folder, "run", "metrics.json").read_bytes()).hexdigest()


def main() -> int:
    write = "--write" in sys.argv
    engines = [word for word in sys.argv[1:] if word != "--write"] or ["compiled", "untimed", "simpy"]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    changed = 0
    for engine in engines:
        before, now = golden.get(engine, {}), {}
        for words in runs(engine):
            now[words] = result(words, engine)
            if now[words] != before.get(words):
                changed += 1
                print(f"{engine} {words}: {now[words]}", file=sys.stderr)
        print(f"{engine}: {len(now)} runs")
        golden[engine] = now
    if write:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
        return 0
    print(f"{changed} runs differ from {GOLDEN.relative_to(ROOT)}")
    return int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
