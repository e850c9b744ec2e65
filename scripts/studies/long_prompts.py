"""Prints long prompts beside published figures: python -m scripts.studies.long_prompts [--out FILE]

1. How often experts are fetched for one prompt, token by token and by expert: Gemma-4 26B-A4B, a prompt of 585 tokens
   and 12.5 % of the experts resident, 64,369 fetches against at most 3,840 (jundot/omlx issue 3654). Routing is a
   SYNTHETIC stand-in of the model's shape.
2. Time to first token of layers that are streamed through two buffers: Qwen3-Next-80B-A3B in 8 bits on an RTX 5090,
   whose published rates are kvcache-ai/ktransformers, doc/en/kt-kernel/Qwen3-Coder-Next-Tutorial.md (layer-wise prefill
   for long prompts). Experts are drawn evenly, which decides nothing where whole layers come. Nothing is calibrated.
3. The same for FreeToken, whose prefill streams whole layers through two buffers, 8,192 tokens at a time
   (`--max-prefill-length` of FlashML-org/FreeToken, docs/cli.md): what its paper (arXiv 2608.16157) reports of
   Qwen3.6-35B-A3B, as docs/freetoken-paper-benchmark-spec.md of that project passes it on, and a user's TTFT
   (FlashML-org/FreeToken issue 421).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scripts.command_line import parser_of, run
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import PrefillConfig, RunConfig
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.machine.model import geometry, load_dimensions
from sim.machine.runtime import load_runtime
from sim.metrics.step_table import StepTable
from traces.demo.stand_in import stand_in
from traces.embedded import embedded_trace_path
from traces.format.files import read_trace
from traces.format.trace import DECODE, PREFILL, Geometry, Trace, id_dtype

GEMMA, PROMPT, RESIDENT = "gemma_4_26b_a4b", 585, 0.125
FETCHES = {"token": 64_369, "expert": 3_840}
"""Published, by order: counted, and at most."""
STREAMED = "qwen3_next_80b_a3b"
RATES = {2048: 1746.0, 8192: 2407.0, 32768: 6233.0}
"""Published tokens per second of prefill, by tokens of the prompt."""
QWEN, FLASH = "qwen3_5_35b_a3b_q4", "Qwen3.8-Flash-Next"
PASS_TOKENS = 8192
FILE = Path("docs/results/long_prompts.md")
HEAD = f"""# Long prompts beside published figures

`python -m scripts.studies.long_prompts --out {FILE}` writes this page. SIMULATED;
nothing is calibrated.

## How often experts are fetched for one prompt

Gemma-4 26B-A4B, {PROMPT} tokens, {RESIDENT:.1%} of the experts resident (LRU, cold). Published: jundot/omlx issue 3654.
The routing is a SYNTHETIC stand-in of the model's shape (`trace=stand_in`): the order of magnitude counts, no more.

| `prefill.order` | published | simulated | simulated / published |
|---|---|---|---|"""
MIDDLE = """
## Time to first token where layers are streamed

Qwen3-Next-80B-A3B, all weights in 8 bits, `hardware=rtx5090 runtime=ktransformers`, 25 % of the experts resident;
experts drawn evenly (SYNTHETIC). Published: kvcache-ai/ktransformers, doc/en/kt-kernel/Qwen3-Coder-Next-Tutorial.md,
prompt tokens over its tokens per second. How many experts are resident there, which prompts the CPU computes, and how
long ones are cut is not stated.

| tokens | published s | `order=stream` s | / published | `order=expert` s |
|---|---|---|---|---|"""
AFTER = """
One pass that streams every layer takes what 77 GB of experts take over the link, 1.5 s, whatever the prompt's length.
The published 2,048 tokens are quicker than that, so part of the experts did not come over the link; longer prompts are
2.2 and 2.9 times slower, as where a prompt is cut and every piece streams the layers again. One rate and one pass do
not give both: the model is a third too slow at the shortest prompt and too fast beyond.

## FreeToken: layers streamed through two buffers, 8,192 tokens a pass

`prefill.order=stream prefill.pass_tokens=8192 prefill.bypass=always`, `hardware=rtx5090` with the link's rate as
stated, `runtime=cuda_graphs`, 25 % of the experts resident; experts drawn evenly (SYNTHETIC). Published: arXiv
2608.16157 as docs/freetoken-paper-benchmark-spec.md of FlashML-org/FreeToken passes it on (the paper itself was not
read), and issue 421 of that project. Qwen3.6-35B-A3B has the sizes of Qwen3.5-35B-A3B (ESTIMATED to be the same), in 16
bits. Of Qwen3.8-Flash-Next 48 layers, 512 experts, top 10 and 63 GiB of experts are stated (pull request 257); what is
no expert is ESTIMATED from 6 B active parameters.

| model | prompt | link, GB/s | published s | simulated s | error |
|---|---|---|---|---|---|"""
TAIL = """
A pass of Qwen3.6-35B-A3B takes what 64 GB of experts take over the link, which is what the paper's mechanism takes. The
user's {tokens:,} tokens took {factor:.1f} times as long as the two passes that they need: neither the link nor the
GPU's arithmetic explains that, and the thread does not say which part of the prompt was streamed, nor what else the
first token waited for."""


def one_prompt(trace: Trace, tokens: int) -> Trace:
    """All rows of a trace up to ``tokens`` as one prompt, then one decoded token."""
    rows = slice(0, tokens + 1)
    phase = np.full(tokens + 1, PREFILL, np.uint8)
    phase[-1] = DECODE
    return replace(
        trace,
        topk_ids=trace.topk_ids[rows],
        topk_weights=None,
        router_logits=None,
        token_ids=None,
        phase=phase,
        request_offsets=np.array([0, tokens + 1], np.int64),
        prompt_len=np.array([tokens], np.int32),
        request_labels=None,
        request_numbers=None,
    )


def evenly(model: Geometry, tokens: int, seed: int = 0) -> Trace:
    """SYNTHETIC: every token's experts drawn evenly, distinct; one prompt and one decoded token."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, model.num_experts, (tokens + 1, model.num_layers, 1))
    stride = 2 * rng.integers(0, model.num_experts // 2, (tokens + 1, model.num_layers, 1)) + 1
    ids = (first + stride * np.arange(model.top_k)) % model.num_experts  # an odd stride: distinct for powers of two
    trace = Trace(
        geometry=model,
        topk_ids=ids.astype(id_dtype(model.num_experts)),
        request_offsets=np.array([0, tokens + 1], np.int64),
        prompt_len=np.array([tokens], np.int32),
        phase=np.full(tokens + 1, DECODE, np.uint8),
    )
    return one_prompt(trace, tokens)


@dataclass(frozen=True, slots=True)
class Published:
    """A published time to first token of FreeToken; ``low`` and ``high`` where a range is stated."""

    model: str
    tokens: int
    link_bytes_per_s: float
    low: float
    high: float

    def error(self, simulated: float) -> float:
        """Relative to the nearer end of the range, 0 inside it."""
        return simulated / min(max(simulated, self.low), self.high) - 1


FREETOKEN = (
    Published("Qwen3.6-35B-A3B", 8192, 52.7e9, 1.19, 1.22),
    Published("Qwen3.6-35B-A3B", 16000, 52.7e9, 16000 / 6700, 16000 / 6700),
    Published(FLASH, 9000, 56.06e9, 11.8, 11.8),
)


def sizes_of(model: str) -> Geometry:
    """Sizes of a model of the table."""
    if model == FLASH:
        layers, experts, expert_bytes = 48, 512, 63 * 2**30 // (48 * 512)
        active = 10 * layers * expert_bytes * 8 / 4.5  # parameters of a token's experts
        rest = int((6e9 - active) * 2 / layers)  # 16 bits
        return Geometry(
            FLASH, layers, experts, 10, (expert_bytes,) * layers, (rest,) * layers, (0,) * layers, 0, 0, 2048, 4.5
        )  # fmt: skip
    return geometry(replace(load_dimensions(QWEN), name=model, weight_bits=16.0, other_bits=16.0))


def freetoken(row: Published) -> float:
    """Seconds until the prompt of a row is prefilled."""
    hardware = replace(load_hardware("rtx5090"), link_bytes_per_s=row.link_bytes_per_s)
    prefill = PrefillConfig("stream", "always", PASS_TOKENS)
    return replayed(
        evenly(sizes_of(row.model), row.tokens), prefill, 0.25, Machine(hardware, load_runtime("cuda_graphs"))
    )[0]


def replayed(trace: Trace, prefill: PrefillConfig, fraction: float, machine: Machine) -> tuple[float, int]:
    """(seconds until the prompt is prefilled, copies until then) under LRU from a cold start."""
    setup = DeviceSetup(
        load_policy("lru"), machine, CacheConfig(fraction=fraction), RunConfig(engine="compiled"),
        prefill=prefill,
    )  # fmt: skip
    columns = StepTable(assemble(trace, setup)).run().columns()
    prompt = columns["phase"] == PREFILL
    return float(columns["latency_ns"][prompt].sum() / 1e9), int(columns["demand_copies"][prompt].sum())


def fetches() -> dict[str, int]:
    """Copies of experts for the prompt of 585 tokens, by order."""
    demo = read_trace(embedded_trace_path())
    needed = -(-(PROMPT + 1) // int(np.diff(demo.request_offsets).min()))
    trace = one_prompt(stand_in(demo.select_requests(needed), geometry(load_dimensions(GEMMA))), PROMPT)
    machine = Machine(load_hardware("s1_rtx3080ti"), load_runtime("ideal"))
    return {order: replayed(trace, PrefillConfig(order), RESIDENT, machine)[1] for order in ("token", "expert")}


def streamed(tokens: int) -> dict[str, float]:
    """Seconds until a prompt of so many tokens is prefilled, by order."""
    dimensions = replace(load_dimensions(STREAMED), weight_bits=8.0, other_bits=8.0)
    machine = Machine(load_hardware("rtx5090"), load_runtime("ktransformers"))
    trace = evenly(geometry(dimensions), tokens)
    return {order: replayed(trace, PrefillConfig(order), 0.25, machine)[0] for order in ("expert", "stream")}


def page(found: dict[str, int], times: dict[int, dict[str, float]], passes: Sequence[float]) -> Iterator[str]:
    """The page of results, line by line."""
    yield HEAD
    for order, published in FETCHES.items():
        bound = "at most " if order == "expert" else ""
        yield f"| `{order}` | {bound}{published:,} | {found[order]:,} | {found[order] / published:.2f} |"
    yield MIDDLE
    for tokens, by_order in times.items():
        published_s, streamed_s = tokens / RATES[tokens], by_order["stream"]
        shown = (published_s, streamed_s, streamed_s / published_s, by_order["expert"])
        yield f"| {tokens:,} | {' | '.join(f'{one:.2f}' for one in shown)} |"
    yield AFTER
    for row, simulated in zip(FREETOKEN, passes, strict=True):
        said = f"{row.low:.2f}" if row.low == row.high else f"{row.low:.2f} to {row.high:.2f}"
        cells = (f"{row.link_bytes_per_s / 1e9:g}", said, f"{simulated:.2f}", f"{100 * row.error(simulated):+.0f} %")
        yield f"| {row.model} | {row.tokens:,} | {' | '.join(cells)} |"
    yield TAIL.format(tokens=FREETOKEN[-1].tokens, factor=FREETOKEN[-1].low / passes[-1])


def main(argv: list[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, help=f"a file for the page, as {FILE}; without: printed")
    options = parser.parse_args(argv)
    lines = (
        "\n".join(page(fetches(), {tokens: streamed(tokens) for tokens in RATES}, [*map(freetoken, FREETOKEN)])) + "\n"
    )
    if options.out is None:
        print(lines, end="")
    else:
        options.out.write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    run(main)
