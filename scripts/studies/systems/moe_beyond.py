"""Prints what MoE-Beyond's predictions are worth: python -m scripts.studies.systems.moe_beyond --checkpoint FILE

  python -m scripts.studies.systems.moe_beyond                     the embedded trace and the predictor of the package
  python -m scripts.studies.systems.moe_beyond --checkpoint c.safetensors --trace t.safetensors --requests 8
  python -m scripts.studies.systems.moe_beyond --mix t.safetensors --out mixed.safetensors   requests shuffled

Table 1 counts as MoE-Beyond's code does: one LRU over all layers, single accesses, predictions in the cache at once and
free of charge. Beside it stand the experts of the token before, prefetched as freely, and Belady with bypass; every
hit rate comes with the loads per token that it takes. Table 2 replays with a clock (SIMULATED): time per output token
by speed of the link. Only requests are used that the predictor did not learn from.

The published table needs the 100 test prompts of github.com/ngavhane/moe-beyond (`python -m sim import moe_beyond`).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from policies.base import Policy
from policies.needs import Need
from scripts.command_line import parser_of, run
from sim.assembly.build import make_policy, open_trace
from sim.assembly.compose import compose_run
from sim.assembly.replay import assemble
from sim.config import TraceConfig, to_plain_dict, validate
from sim.machine.capacity import CacheConfig
from sim.machine.geometry import resolve_geometry
from sim.machine.hardware import Hardware, hardware_from_config
from sim.metrics.step_table import Metrics, StepTable
from sim.paths import CONF
from sim.predictors.checkpoint import EMBEDDED, Checkpoint, locate_checkpoint, read_checkpoint
from sim.predictors.forecast import make_forecaster
from sim.predictors.free_prefetch import FreePrefetch, best_predicted, count_hits
from sim.predictors.split import mixed
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.trace import Trace


def main(argv: list[str]) -> None:
    """Print both tables, or write a shuffled trace."""
    parser = parser_of(__doc__)
    parser.add_argument("--trace", help="trace file (default: the embedded trace)")
    parser.add_argument("--checkpoint", default=EMBEDDED, help="what `python -m sim train-predictor` wrote")
    parser.add_argument("--requests", type=int, help="replay only the first n requests")
    parser.add_argument("--fractions", default="0.05,0.1,0.2,0.3,0.5,0.8", help="capacities of table 1")
    parser.add_argument("--links", default="2,4,8,16,32,64,128", help="speeds of table 2, GB/s")
    parser.add_argument("--capacity", type=float, default=0.25, help="capacity of table 2, share of the experts")
    parser.add_argument("--hardware", default="s1_rtx3080ti")
    parser.add_argument("--model", default="auto", help="whose sizes table 2 takes")
    parser.add_argument("--mix", help="a trace to shuffle into --out, by --seed")
    parser.add_argument("--out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    if given.mix:
        write_mixed(Path(given.mix), given.out, given.seed)
        return
    study = Study(given)
    print("\n".join(study.counted()), flush=True)
    print("\n".join(study.timed()))


def write_mixed(source: Path, out: str | None, seed: int) -> None:
    """Write a trace with its requests in an order drawn from the seed."""
    if out is None:
        raise UserError("--out is not set: name the trace file to write")
    trace = write_trace(out, mixed(read_trace(source), seed))
    print(f"{out}: {trace.num_requests} requests in an order drawn from seed {seed}")


class Study:
    """One trace, one predictor, and the requests that it did not learn from."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.checkpoint: Checkpoint = read_checkpoint(locate_checkpoint(given.checkpoint, "moe_beyond"))
        self.config = self._config([])
        trace_config = validate(TraceConfig, to_plain_dict(self.config.trace), "trace.")
        whole = open_trace(trace_config)
        self.trace, self.others = self._unseen(whole)
        if given.requests is not None:
            self.trace = self.trace.select_requests(given.requests)
        self.geometry, self.estimated, _ = resolve_geometry(self.trace, trace_config, to_plain_dict(self.config.model))
        self.policy = self._policy(
            "policy=moe_beyond",
            f"policy/prediction={self.checkpoint.kind}",
            f"policy.prediction.checkpoint='{given.checkpoint}'",
            *([] if self.checkpoint.settings.causal else ["policy.prediction.causal=false"]),
            f"policy.prefetch.n={self.trace.top_k}",
        )

    def _config(self, overrides: list[str]) -> DictConfig:
        path = [] if self.given.trace is None else [f"trace.path='{self.given.trace}'"]
        chosen = [f"hardware={self.given.hardware}", f"model={self.given.model}", *path, *overrides]
        return compose_run(*chosen)

    def _policy(self, *overrides: str) -> Policy:
        return make_policy(self._config(list(overrides)).policy)

    def _unseen(self, whole: Trace) -> tuple[Trace, Trace | None]:
        """(the requests before those that were learned from, those learned from); all, None for another trace."""
        training = self.checkpoint.training
        if whole.content_hash != training["trace_hash"]:
            return whole, None
        first = min(training["train"] + training["validation"])
        return whole.select_requests(first), whole.select_requests(whole.num_requests - first, first)

    def counted(self) -> list[str]:
        """Table 1."""
        trace, total = self.trace, self.trace.num_layers * self.trace.num_experts
        ids = np.asarray(trace.topk_ids, np.int64)
        predicted = self._predicted()
        before = np.where(self._follows()[:, None, None], np.roll(ids, 1, axis=0), -1)
        lines = [
            f"{trace.num_requests} requests, {trace.num_tokens} tokens, {ids[0].size} accesses per token; one LRU over "
            f"{trace.num_layers} layers, cold start; hit rate / loads per token",
            f"{'capacity':>9}{'LRU':>17}{'+ predicted, free':>20}{'+ token before':>18}{'Belady, bypass':>18}",
        ]
        for fraction in _numbers(self.given.fractions):
            capacity = max(1, int(fraction * total + 1e-9))
            plain_lru = count_hits(ids, ids[:, :, :0], trace.num_experts, capacity)
            with_predicted = count_hits(ids, predicted, trace.num_experts, capacity)
            with_last_token = count_hits(ids, before, trace.num_experts, capacity)
            lines.append(
                f"{fraction:>9.1%}{_pair(plain_lru):>17}{_pair(with_predicted):>20}{_pair(with_last_token):>18}"
                f"{self._belady(capacity):>18}"
            )
        recall = with_predicted.recall
        return [*lines, f"recall of the {trace.top_k} predicted: {recall:.1%}", ""]

    def _predicted(self) -> NDArray[np.int64]:
        """[T, L, K] the best experts of each layer as known one layer before."""
        forecaster = make_forecaster(self.policy.prediction, self.trace)
        best = []
        for first, end in zip(self.trace.request_offsets[:-1], self.trace.request_offsets[1:], strict=True):
            scores = forecaster.at_distance(0, np.arange(first, end))
            best.append(best_predicted(scores, self.trace.top_k))
        return np.concatenate(best)

    def _follows(self) -> NDArray[np.bool_]:
        """Whether a row follows one of its own request."""
        follows = np.ones(self.trace.num_tokens, bool)
        follows[self.trace.request_offsets[:-1]] = False
        return follows

    def _belady(self, capacity: int) -> str:
        sized = replace(self.trace.geometry, expert_bytes=(1,) * self.trace.num_layers)
        cache = CacheConfig(bytes=capacity, scope="global", semantics="sequential")
        hardware = hardware_from_config(to_plain_dict(self.config.hardware))
        table = StepTable(assemble(self.trace, self._policy("policy=belady"), hardware, sized, cache))
        table.run()
        metrics = table.metrics()
        return f"{100 * _number(metrics, 'hit_rate'):.1f} / {_number(metrics, 'loads_per_token'):.1f}"

    def timed(self) -> list[str]:
        """Table 2."""
        policies = self._timed_policies()
        hardware = hardware_from_config(to_plain_dict(self.config.hardware))
        learned = list(policies)[1]
        lines = [
            f"SIMULATED TPOT in ms / decode loads per token; {self.geometry.model} sizes, {hardware.name} "
            f"({hardware.label}) with the link as given, capacity {self.given.capacity:.0%} in each layer",
            f"gain: TPOT of lru less that of {learned}, which is what running the network may take per token at most",
            f"{'link GB/s':>9}" + "".join(f"{name:>24}" for name in policies) + f"{'gain, ms':>12}",
        ]
        for speed in _numbers(self.given.links):
            machine = replace(hardware, link_bytes_per_s=speed * 1e9)
            replayed = {name: self._replayed(policy, machine) for name, policy in policies.items()}
            cells = [f"{tpot_ms:.2f} / {loads:.1f}" for tpot_ms, loads in replayed.values()]
            gain_ms = replayed["lru"][0] - replayed[learned][0]
            lines.append(f"{speed:>9g}" + "".join(f"{cell:>24}" for cell in cells) + f"{gain_ms:>12.2f}")
        notes = ["the time of the predictor's own network is not counted", *self.estimated]
        return [*lines, *(f"ESTIMATED: {note}" for note in notes)]

    def _replayed(self, policy: Policy, machine: Hardware) -> tuple[float, float]:
        """(TPOT in ms, loads per decode token) of one replay with a clock."""
        cache = CacheConfig(fraction=self.given.capacity)
        others = self.others if Need.FIT in policy.needs() else None
        table = StepTable(assemble(self.trace, policy, machine, self.geometry, cache, others=others))
        table.run()
        metrics = table.metrics()
        return 1e3 * _number(metrics, "tpot_s.mean"), _number(metrics, "decode.loads_per_token")

    def _timed_policies(self) -> dict[str, Policy]:
        name = "moe_beyond" if self.checkpoint.kind == "moe_beyond" else f"lru + {self.checkpoint.kind}"
        policies = {"lru": self._policy("policy=lru"), name: self.policy}
        for rule in ("activation_matrix", "previous_token"):
            needs_others = rule == "activation_matrix"
            if (CONF / "policy" / "prediction" / f"{rule}.yaml").is_file() and not (needs_others and not self.others):
                top_k = f"policy.prefetch.n={self.trace.top_k}"
                policies[f"lru + {rule}"] = self._policy("policy=moe_beyond", f"policy/prediction={rule}", top_k)
        return policies | {"belady": self._policy("policy=belady")}


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise UserError(f"{text}: numbers with commas between them are needed") from error


def _number(metrics: Metrics, name: str) -> float:
    value: Any = metrics[name]
    return float("nan") if value is None else float(value)


def _pair(counts: FreePrefetch) -> str:
    return f"{100 * counts.hit_rate:.1f} / {counts.loads_per_token:.1f}"


if __name__ == "__main__":
    run(main)
