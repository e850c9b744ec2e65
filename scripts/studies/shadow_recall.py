"""Measures the recall of a quantised shadow model by token age: python -m scripts.studies.shadow_recall

The demo model decodes greedily. Beside it run copies of it whose weight matrices are rounded to 8 or 4 bits per row and
multiplied in FP32 (their routers too; norms and embeddings stay), in four ways: fed with the model's tokens and given
its K and V before every step (prompt included), tokens only, K and V only, and left alone. Recall is the share of the
model's experts that the shadow used in the same step and layer. Intervals: bootstrap over requests. Takes minutes.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scripts.command_line import parser_of, run
from sim.statistics.bootstrap import request_interval
from sim.systems.od_moe.recall import MEASURED_FILE, MODES
from traces.demo.cache import demo_model
from traces.demo.recipe import RECIPES
from traces.recording.loading import LoadedModel, load_model
from traces.recording.prompts import read_prompts
from traces.recording.tap import Routing, Tap

BITS = {"int8": 8, "int4": 4}
AGES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192)
"""Last token age of each range; age 1 is the first decode step."""


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Every row rounded to the integers of `bits` bits, scaled so that its largest magnitude is kept."""
    most = 2 ** (bits - 1) - 1
    scale: torch.Tensor = weight.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / most
    return torch.round(weight / scale) * scale


def shadow_of(model: torch.nn.Module, bits: int) -> torch.nn.Module:
    """A copy of `model` with every weight matrix but the embedding rounded."""
    shadow: torch.nn.Module = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in shadow.named_parameters():
            if weight.ndim >= 2 and "embed" not in name:
                weight.copy_(rounded(weight, bits))
    return shadow


class Runner:
    """One model decoding a batch of requests, with the experts that it used."""

    def __init__(self, model: Any) -> None:
        self.model, self.cache = model, None
        self.ids: list[torch.Tensor] = []

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Routing is noted while the block lasts."""

        def note(routing: Routing) -> None:
            self.ids.append(routing.topk_ids.detach())

        with Tap(self.model, note):
            yield

    def step(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed tokens [R, n] -> (likeliest next token [R, 1], experts of the last position [R, L, K])."""
        self.ids.clear()
        output = self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values
        rows, count = tokens.shape
        ids = torch.stack([layer.reshape(rows, count, -1)[:, -1] for layer in self.ids], dim=1)
        return output.logits[:, -1:].argmax(-1), ids


def share_named(shadow: torch.Tensor, true: torch.Tensor) -> NDArray[np.float64]:
    """Share of the true experts that the shadow used, [R], over layers."""
    return (true[..., :, None] == shadow[..., None, :]).any(-1).double().mean(dim=(1, 2)).numpy()


def measure(loaded: LoadedModel, prompts: torch.Tensor, steps: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Recall [R, steps] by precision and mode."""
    main = Runner(loaded.model)
    shadows = {
        (precision, mode): Runner(shadow_of(loaded.model, bits)) for precision, bits in BITS.items() for mode in MODES
    }
    recall = {key: np.zeros((len(prompts), steps)) for key in shadows}
    with torch.no_grad(), main.tapped():
        own = {}
        for key, shadow in shadows.items():
            with shadow.tapped():
                own[key], _ = shadow.step(prompts)
        token, _ = main.step(prompts)
        for number in range(steps):
            before = main.cache
            kept = {key: copy.deepcopy(before) for key in shadows if key[1][1]}  # before the model's step extends it
            following, true = main.step(token)
            for key, shadow in shadows.items():
                (_, (token_aligned, _)) = key
                if key in kept:
                    shadow.cache = kept[key]
                with shadow.tapped():
                    own[key], ids = shadow.step(token if token_aligned else own[key])
                recall[key][:, number] = share_named(ids, true)
            token = following
            print(f"\rstep {number + 1} of {steps}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return {precision: {MODES[mode]: recall[precision, mode] for mode in MODES} for precision in BITS}


def curve(recall: NDArray[np.float64], last: list[int]) -> dict[str, list[float]]:
    """Mean by range of ages with a 95 % interval over requests, and the mean over all steps as the last entry."""
    first = [0, *last[:-1]]
    means = np.stack([recall[:, a:b].mean(axis=1) for a, b in zip(first, last, strict=True)])  # [ranges, R]
    ends = [request_interval(values, np.ones(len(values))) for values in means]
    low, high = (np.array(side) for side in zip(*ends, strict=True))
    return {
        name: [round(float(value), 4) for value in values]
        for name, values in (("mean", means.mean(axis=1)), ("low", low), ("high", high))
    }


def main(argv: list[str]) -> None:
    """Measure, print, store."""
    parser = parser_of(__doc__)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, default=192)
    parser.add_argument("--out", type=Path, default=MEASURED_FILE)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder = demo_model(RECIPES["demo"])
    loaded = load_model(str(folder))
    texts = read_prompts("builtin", options.requests, 0, options.prompt_tokens)
    ids = [loaded.tokenizer(prompt.text)["input_ids"][: options.prompt_tokens] for prompt in texts]
    recall = measure(loaded, torch.tensor(ids), options.steps)
    last = [age for age in AGES if age < options.steps] + [options.steps]
    result = {
        "provenance": {
            "label": "MEASURED on the demo model",
            "model": folder.name,
            "by": "scripts/studies/shadow_recall.py",
            "requests": options.requests,
            "prompt_tokens": options.prompt_tokens,
            "decode_steps": options.steps,
            "decoding": "greedy, end of text ignored",
            "quantisation": "weights rounded per row by largest magnitude, multiplied in FP32",
            "alignment": "before every step; K and V of the prompt included",
            "interval": "95 %, bootstrap over requests",
            "torch": torch.__version__,
        },
        "age_last": last,
        "recall": {
            precision: {
                mode: {**curve(values, last), "overall": round(float(values.mean()), 4)}
                for mode, values in modes.items()
            }
            for precision, modes in recall.items()
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print recall by age."""
    for precision, modes in result["recall"].items():
        print(f"\n{precision}: recall by token age, MEASURED on the demo model, 95 % interval over requests")
        print(f"{'up to age':>10}" + "".join(f"{mode:>22}" for mode in modes))
        for i, age in enumerate(result["age_last"]):
            cells = (f"{m['mean'][i]:.3f} [{m['low'][i]:.3f}, {m['high'][i]:.3f}]" for m in modes.values())
            print(f"{age:>10}" + "".join(f"{cell:>22}" for cell in cells))
        print(f"{'all':>10}" + "".join(f"{m['overall']:>22.3f}" for m in modes.values()))


if __name__ == "__main__":
    run(main)
