"""Bad configurations: every numeric knob at and beyond its limits, contradictions, misspelt keys, broken overrides.

A refusal is one sentence and exit code 2 before any work, so that no output folder is left behind.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from scripts.torture.faults import Tally, run_here
from scripts.torture.readers import small_trace
from traces.errors import UserError

ODD: tuple[Any, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    1e30,
    -1e30,
    10**400,
    2**63,
    0.5,
    "abc",
    True,
    [1],
    {"a": 1},
)

# Overrides of `run` -> words of the sentence that refuses them.
REFUSED: tuple[tuple[list[str], str], ...] = (
    (["cache.fraction=0.001"], "less than 1 slot"),
    (["cache.slots_per_layer=0"], "at least 1 slot is needed"),
    (["cache.bytes=1"], "at least 1 slot is needed"),
    (["cache.bytes=0"], "must be at least 1"),
    (["cache.slots_per_layer=1000"], "a layer has 8 experts"),
    (["cache.fraction=0.5", "cache.bytes=1000"], "are both set"),
    (["cache.fraction=0.5", "cache.slots_per_layer=2"], "are both set"),
    (["cache.fraction=nan"], "cache.fraction=nan"),
    (["cache.fraction=inf"], "cache.fraction=inf"),
    (["cache.fraction=1e-400"], "cache.fraction=0"),
    (["cache.fraction=abc"], "must be a number or null"),
    (["cache.fraction="], "must be a number or null"),
    (["cache.scope=all"], "must be layer or global"),
    (["policy=importance", "trace.path=BARE"], "needs full gate scores"),
    (["policy=promoe"], "policy.prediction.checkpoint is not set"),
    (["policy=lru", "policy/prefetch=top_n"], "has no prediction to choose from"),
    (["policy=lru", "policy/assignment=two_pointer", "hardware.cpu_load_ratio=null"], "the time of an expert on"),
    (["cache.scope=global", "policy=lru", "policy/allocation=miss_curve"], "has one pool for all layers"),
    (["cache.semantics=sequential", "policy=importance"], "replays single accesses"),
    (["cache.overflow=hold", "policy=belady"], "may refuse"),
    (["cache.overflow=hold", "policy=on_demand"], "keeps nothing"),
    (["engine=untimed", "timeline=true"], "has no clock"),
    (["engine=untimed", "what_if=true"], "has no clock"),
    (["batch_size=0"], "must be at least 1"),
    (["batch_size=1.5"], "must be a whole number"),
    (["seed=-1"], "must be between 0 and 2**63 - 1"),
    (["seed=9223372036854775808"], "must be between 0 and 2**63 - 1"),
    (["prefill_chunk=0"], "must be at least 1"),
    (["timeline_steps=0"], "must be at least 1"),
    (["trace.requests=0"], "must be at least 1"),
    (["trace.requests=1000"], "the trace has 6 requests"),
    (["trace.fit_requests=6"], "must be below the trace's 6 requests"),
    (["trace.path=/nonexistent"], "does not exist"),
    (["trace.path=${nope}"], "'nope' not found"),
    (["hardware.link_bytes_per_s=0"], "must be above zero"),
    (["hardware.link_bytes_per_s=.inf"], "must be a finite number"),
    (["hardware.link_latency_s=-1"], "must not be negative"),
    (["hardware.gpu_memory_bytes=1.5"], "must be a whole number"),
    (["model=gpt_oss_20b", "model.top_k=0"], "must be a whole number of at least 1"),
    (["policy.write_back=maybe"], "write_back"),
    (["policy.residency=some"], "residency"),
    (["policy.eviction._target_=os.system"], "must be a subclass"),
    (["policy.eviction._target_=nope.Nope"], "cannot be imported"),
    (["policy.eviction._target_=3"], "must name a class"),
    (["policy=improtance"], "did you mean importance?"),
    (["policy/eviction=lruu"], "did you mean lru?"),
    (["policy/eviction=nope"], "choose one of activation_prior"),
    (["hardware=rtx4091"], "did you mean rtx4090?"),
    (["model=qwen3_30b"], "did you mean qwen3_30b_a3b?"),
    (["engine=fast"], "choose one of compiled, simpy, untimed"),
    (["cache.fracton=0.5"], "did you mean cache.fraction?"),
    (["polcy=lru"], "did you mean policy?"),
    (["+polcy=lru"], "did you mean policy?"),
    (["+cache.slots_layer=3"], "did you mean slots_per_layer?"),
    (["cache=3"], "must be a group"),
    (["~policy.prefetch"], "policy.prefetch is missing"),
    (["cache.fraction"], "cannot be read as an override"),
    (["cache.fraction=[0.5"], "cannot be read as an override"),
    (["=3"], "an override has no name"),
    (["--config-name=nope"], "Cannot find primary config 'nope'"),
    (["--config-dir=/nonexistent"], "not found"),
    (["hydra/launcher=nope"], "hydra/launcher=nope"),
    (["system=nope"], "system=nope"),
    (["-m", "policy=improtance,lru"], "did you mean importance?"),
    (["-m", "cache.fraction=7,8"], "must be above 0 and at most 1"),
    (["-m", "cache.fracton=0.1,0.5"], "did you mean cache.fraction?"),
)  # fmt: skip
OTHERS: tuple[tuple[list[str], str], ...] = (
    (["record", "model=/nonexistent"], "does not exist"),
    (["record", "modl=demo"], "did you mean model?"),
    (["record", "max_new_tokens=abc"], "a whole number is needed"),
    (["record", "max_new_tokens=0"], "max_new_tokens=0"),
    (["record", "mode=sing"], "mode=sing"),
    (["record", "prompts=/nonexistent"], "no such file"),
    (["record", "model.dtype=float7"], "model.dtype=float7"),
    (["record", "-m", "model=/nonexistent"], "does not exist"),
    (["train-predictor", "predictor=promoe"], "did you mean promoe_mlp?"),
    (["train-predictor", "train.max_epoch=1"], "did you mean train.max_epochs?"),
    (["train-predictor", "train.max_epochs=0"], "must be between 1"),
    (["train-predictor", "train.learning_rate=nan"], "train.learning_rate=nan"),
    (["train-predictor", "predictor.width=7"], "must be a multiple"),
    (["train-predictor", "trace.path=/nonexistent"], "does not exist"),
    (["train-predictor", "-m", "train.max_epochs=0,-1"], "must be between 1"),
    (["info", "/nonexistent"], "does not exist"),
    (["plot", "/nonexistent"], "is no folder"),
    (["policies", "improtance"], "did you mean importance?"),
    (["rn"], "did you mean run?"),
)


def command_cases() -> Tally:
    """Bad command lines: one sentence with the words that matter, exit code 2, nothing left behind."""
    from traces.format.files import write_trace

    tally = Tally("bad command lines")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        trace = small_trace(0, requests=6)
        write_trace(folder / "t.safetensors", trace)
        bare = {"router_logits": None, "lookahead_before": None, "lookahead_after": None}
        write_trace(folder / "bare.safetensors", replace(trace, **bare))  # type: ignore[arg-type]
        runs = folder / "runs"
        places = [f"hydra.run.dir={runs / 'one'}", f"hydra.sweep.dir={runs / 'all'}"]
        for words, sentence in REFUSED:
            given = [word.replace("BARE", str(folder / "bare.safetensors")) for word in words]
            path = [] if any("trace.path" in word for word in words) else [f"trace.path={folder / 't.safetensors'}"]
            refused(["run", *given, *path, *places], sentence, runs, tally)
        for words, sentence in OTHERS:
            refused([*words, *(places if words[0] in ("record", "train-predictor") else [])], sentence, runs, tally)
    return tally


def refused(argv: list[str], sentence: str, runs: Path, tally: Tally) -> None:
    """One bad command line."""
    shutil.rmtree(runs, ignore_errors=True)
    said, printed = io.StringIO(), io.StringIO()
    name = " ".join(word for word in argv if not word.startswith(("hydra.run", "hydra.sweep", "trace.path=/tmp")))
    try:
        with redirect_stderr(said), redirect_stdout(printed):
            status = run_here(argv)
    except Exception as error:
        status = 1
        said.write(f"Traceback: {type(error).__name__}: {error}")
    text = said.getvalue()
    tally.trials += 1
    tally.outcomes[f"exit {status}"] += 1
    errors = [line for line in text.splitlines() if line.startswith(("error: ", "failed: "))]  # a job each
    if status != 2 or "Traceback" in text:
        tally.defects[f"{name}: exit {status}: {text.strip()[-160:]}"] += 1
    elif not errors or (len(errors) > 1 and "-m" not in argv) or any(sentence not in line for line in errors):
        tally.defects[f"{name}: said {text.strip()[-300:]!r}, not {sentence!r}"] += 1
    elif any(runs.rglob("metrics.json")):
        tally.defects[f"{name}: did some work"] += 1


def knob_cases() -> Tally:
    """Every knob of every rule and schema at odd values: accepted with finite numbers, or refused in a sentence."""
    tally = Tally("knobs at odd values")
    for name, make, knobs in schemas():
        for knob, numeric in knobs:
            for value in ODD:
                tally.trials += 1
                what = f"{name}{knob}={str(value)[:20]}"
                try:
                    made = make(knob, value)
                except UserError as error:
                    tally.outcomes["refused"] += 1
                    if "\n" in str(error) or len(str(error)) > 1500:
                        tally.defects[f"{what}: not one sentence"] += 1
                except Exception as error:
                    tally.defects[f"{what}: {type(error).__name__}: {str(error)[:80]}"] += 1
                else:
                    tally.outcomes["accepted"] += 1
                    if isinstance(value, float) and math.isnan(value) and numeric:
                        tally.defects[f"{what}: NaN is taken for a number"] += 1
                    if hasattr(made, "knobs"):
                        made.knobs()
    return tally


Made = Callable[[str, Any], Any]


def schemas() -> Iterator[tuple[str, Made, list[tuple[str, bool]]]]:
    """(prefix, function from knob and value to an object, its knobs and whether they are numbers)."""
    from omegaconf import OmegaConf

    from sim.assembly.build import make_part
    from sim.assembly.catalogue import PARTS, POLICY_FOLDER, rule_names
    from sim.config import RunConfig, TimeConfig, TraceConfig, validate
    from sim.machine.capacity import CacheConfig
    from sim.machine.hardware import HARDWARE_FOLDER, hardware_from_config
    from sim.machine.model import MODEL_FOLDER, dimensions_from_config
    from sim.predictors.settings import MoeBeyondSettings, PromoeSettings, TrainSettings

    for part in PARTS:
        for rule in rule_names(part):
            config: Any = OmegaConf.create(
                {"policy": {"alpha": 0.35, part: OmegaConf.load(POLICY_FOLDER / part / f"{rule}.yaml")}}
            )
            cls = type(make_part(part, config.policy[part]))

            def make_rule(knob: str, value: Any, part: str = part, cls: type = cls) -> Any:
                return validate(cls, {knob: value}, f"policy.{part}.")

            yield f"policy.{part} {rule}.", make_rule, knobs_of(cls)
    for prefix, schema in {
        "cache.": CacheConfig, "": RunConfig, "time.": TimeConfig, "trace.": TraceConfig, "train.": TrainSettings,
        "predictor.": MoeBeyondSettings, "promoe predictor.": PromoeSettings,
    }.items():  # fmt: skip

        def make(knob: str, value: Any, schema: Any = schema) -> Any:
            base = {"embedded": "demo"} if schema is TraceConfig else {}
            return validate(schema, {**base, knob: value})

        yield prefix, make, knobs_of(schema)
    for prefix, file, reader in (
        ("hardware.", HARDWARE_FOLDER / "s1_rtx3080ti.yaml", hardware_from_config),
        ("model.", MODEL_FOLDER / "gpt_oss_20b.yaml", dimensions_from_config),
    ):
        plain: Any = OmegaConf.to_container(OmegaConf.load(file))

        def make_file(knob: str, value: Any, plain: Any = plain, reader: Any = reader) -> Any:
            return reader({**plain, knob: value})

        numbers = [(str(key), isinstance(value, int | float)) for key, value in plain.items()]
        yield prefix, make_file, numbers


def knobs_of(cls: Any) -> list[tuple[str, bool]]:
    """Names of the fields of a dataclass, and whether each takes a number."""
    hints = get_type_hints(cls)
    kinds = {field.name: get_args(hints[field.name]) or (hints[field.name],) for field in fields(cls)}
    return [(name, bool({int, float} & set(kind))) for name, kind in kinds.items()]


def main() -> None:
    """Print what is wrong, for people."""
    for tally in (knob_cases(), command_cases()):
        print(tally.what, tally.trials, dict(Counter(tally.outcomes)))
        for defect, count in tally.defects.most_common():
            print("  ", count, defect)


if __name__ == "__main__":
    main()
