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

from scripts.command_line import parser_of, print_table, run
from scripts.studies.systems.free_prefetch import best_predicted, count_hits
from sim.assembly.build import build, open_requests
from sim.assembly.compose import compose_run
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.machine.capacity import CacheConfig
from sim.metrics.step_table import StepTable
from sim.predictors.checkpoint import EMBEDDED, locate_checkpoint, read_checkpoint
from sim.predictors.forecast import make_forecaster
from sim.predictors.split import count_learned_last, mixed
from traces.errors import UserError
from traces.format.files import read_trace, write_trace


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
    study.print_counted()
    study.print_timed()


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
        checkpoint = read_checkpoint(locate_checkpoint(given.checkpoint, "moe_beyond"))
        path = [] if given.trace is None else [f"trace.path='{given.trace}'"]
        self.chosen = [f"hardware={given.hardware}", f"model={given.model}", f"cache.fraction={given.capacity}", *path]
        whole = open_requests(compose_run(*self.chosen).trace)
        held = count_learned_last(whole, checkpoint.training)
        self.chosen += [f"trace.fit_requests={held}"] if held else []
        self.chosen += [] if given.requests is None else [f"trace.requests={given.requests}"]
        top_k = f"policy.prefetch.n={whole.top_k}"
        learned = f"policy.prediction.checkpoint='{given.checkpoint}'"
        whole_request = [] if checkpoint.settings.causal else ["policy.prediction.causal=false"]
        self.name = "moe_beyond" if checkpoint.kind == "moe_beyond" else f"lru + {checkpoint.kind}"
        self.policies = {
            "lru": ["policy=lru"],
            self.name: ["policy=moe_beyond", f"policy/prediction={checkpoint.kind}", learned, *whole_request, top_k],
        }
        for rule in ("activation_matrix", "previous_token") if held else ("previous_token",):
            self.policies[f"lru + {rule}"] = ["policy=moe_beyond", f"policy/prediction={rule}", top_k]
        self.policies["belady"] = ["policy=belady"]
        self.replay = self.build(self.name)
        self.trace = self.replay.trace

    def build(self, policy: str, *overrides: str) -> Replay:
        """A replay of the requests that the predictor did not learn from."""
        return build(compose_run(*self.chosen, *self.policies[policy], *overrides))

    def print_counted(self) -> None:
        """Table 1."""
        trace, total = self.trace, self.trace.num_layers * self.trace.num_experts
        ids = np.asarray(trace.topk_ids, np.int64)
        before = np.where(self._follows()[:, None, None], np.roll(ids, 1, axis=0), -1)
        prefetched = {"LRU": ids[:, :, :0], "+ predicted, free": self._predicted(), "+ token before": before}
        rows = []
        for fraction in _numbers(self.given.fractions):
            capacity = max(1, int(fraction * total + 1e-9))
            counts = {name: count_hits(ids, early, trace.num_experts, capacity) for name, early in prefetched.items()}
            cells = {name: _pair(count.hit_rate, count.loads_per_token) for name, count in counts.items()}
            rows.append({"capacity": f"{fraction:.1%}"} | cells | {"Belady, bypass": self._belady(capacity)})
        print_table(
            f"{trace.num_requests} requests, {trace.num_tokens} tokens, {ids[0].size} accesses per token; one LRU over "
            f"{trace.num_layers} layers, cold start; hit rate / loads per token",
            rows,
        )
        print(f"recall of the {trace.top_k} predicted: {counts['+ predicted, free'].recall:.1%}", flush=True)

    def _predicted(self) -> NDArray[np.int64]:
        """[T, L, K] the best experts of each layer as known one layer before."""
        forecaster = make_forecaster(self.replay.policy.prediction, self.trace)
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
        setup = DeviceSetup(self.build("belady").policy, self.replay.setup.machine, cache)
        metrics = _metrics(assemble(self.trace, setup, sized))
        return _pair(metrics["hit_rate"], metrics["loads_per_token"])

    def print_timed(self) -> None:
        """Table 2."""
        rows = []
        for speed in _numbers(self.given.links):
            link = f"hardware.link_bytes_per_s={speed * 1e9}"
            replayed = {name: _metrics(self.build(name, link)) for name in self.policies}
            tpot_ms = {name: 1e3 * metrics["tpot_s.mean"] for name, metrics in replayed.items()}
            loads = {name: metrics["decode.loads_per_token"] for name, metrics in replayed.items()}
            cells = {name: f"{tpot_ms[name]:.2f} / {loads[name]:.1f}" for name in self.policies}
            gain_ms = f"{tpot_ms['lru'] - tpot_ms[self.name]:.2f}"
            rows.append({"link GB/s": f"{speed:g}"} | cells | {"gain, ms": gain_ms})
        hardware = self.replay.hardware
        print_table(
            f"SIMULATED TPOT in ms / decode loads per token; {self.replay.geometry.model} sizes, {hardware.name} "
            f"({hardware.label}) with the link as given, capacity {self.given.capacity:.0%} in each layer\n"
            f"gain: TPOT of lru less that of {self.name}, which is what running the network may take per token at most",
            rows,
        )
        for note in ("the time of the predictor's own network is not counted", *self.replay.notes.estimated):
            print(f"ESTIMATED: {note}")


def _metrics(replay: Replay) -> dict[str, Any]:
    return StepTable(replay).run().metrics()


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise UserError(f"{text}: numbers with commas between them are needed") from error


def _pair(hit_rate: float, loads: float) -> str:
    return f"{100 * hit_rate:.1f} / {loads:.1f}"


if __name__ == "__main__":
    run(main)
