"""Say how fast a machine will write with a model, before it is bought or set up: the best plans, and how sure that is.

usage: python -m sim forecast model=MODEL hardware=MACHINE [NAME=VALUE ...]

Fits the model into the machine's memory, tries what runtimes can really do (layers of experts on the CPU, caches of
experts on the GPU, everything on the GPU), and answers on one screen: tokens per second while it writes, with an
interval that holds 90 % of machines, what they wait for, the three best plans with their flags, what other parts would
give, and what all of it rests on. One request at a time, without drafts. Nothing is measured unless hardware=here.

examples:
  python -m sim forecast model=qwen3_30b_a3b_q4 hardware='RTX 4070, Ryzen 7 7700, 2ch DDR5-5600, 64 GB RAM'
  python -m sim forecast model=my.gguf hardware=here out=mine.yaml
  python -m sim forecast model=/path/to/config.json quantisation=Q4_K_M hardware=mine.yaml context=32768
  python -m sim forecast model=gpt_oss_120b hardware=rtx4090 runtime=llama_cpp,llama_cpp_moe_cache format=json

arguments (default):
  model=NAME                 a *.gguf file, a config.json, a folder that holds one, or a name such as gpt_oss_120b
  hardware=MACHINE           parts with commas, as in the example, a drive as 5 GB/s ssd; a file of conf/hardware by
                             name; a *.yaml of your own; or here: this machine is probed in under a minute (RAM, CPU,
                             storage, GPU and link)
  quantisation=NAME          Q4_K_M, MXFP4, BF16 ...; (as the model's file states it)
  context=4096               tokens in the context while it writes; K and V of all of them are kept on the GPU; 0: what
                             a bench measures
  prompt=512                 tokens of the prompt whose first token is waited for
  runtime=any                names of conf/runtime with commas: llama_cpp, llama_cpp_moe_cache, ktransformers,
                             cuda_graphs, imp_2026_08_pool, eager_hf, mixtral_offloading, mlx_ssd; any: all
  placement=WORDS            only this one, of runtime= (llama_cpp): all resident, CPU only, exps=CPU, --n-cpu-moe N, or
                             N % of experts on GPU
  card=FILE.yaml             routing of the model's family for caches (the nearest of conf/card); see `sim card`
  borrow=CARD                routing of another family, and the answer says so; without either, caches of a family that
                             no card is of are refused
  workspace=1.5              GB of GPU memory for the runtime's buffers, its context and the desktop, ESTIMATED
  gpu_memory=GB, ram=GB      what the machine has of both, where hardware= does not say or you want to leave some free;
                             of the GPU as cards are sold (12 is 12 GiB), of RAM 1e9 bytes;
                             of a memory that CPU and GPU share gpu_memory= is what the GPU may fill (three quarters)
  out=FILE.yaml              hardware=here: the file to keep (here.yaml)
  format=text                json: all plans and figures

Rows that you measured (`python -m sim measured`) narrow the interval. What fits, flags and formulas: docs/forecast.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

from traces.errors import UserError

if TYPE_CHECKING:
    from sim.forecast.machines import ForecastMachine

KNOWN = {
    "model": "NAME",
    "hardware": "MACHINE",
    "quantisation": "NAME",
    "context": "TOKENS",
    "prompt": "TOKENS",
    "runtime": "NAME,NAME",
    "placement": "WORDS",
    "card": "CARD",
    "borrow": "CARD",
    "workspace": "GB",
    "gpu_memory": "GB",
    "ram": "GB",
    "out": "FILE.yaml",
    "format": "text or json",
}
EXAMPLES = {"model": "qwen3_30b_a3b_q4, say", "hardware": "'RTX 4070, Ryzen 7 7700, 64 GB RAM', say, or here"}
ANY, HERE = "any", "here"
NOT_FORECAST = {
    **dict.fromkeys(("batch", "batch_size", "concurrency", "requests"), "several requests at once"),
    **dict.fromkeys(("draft", "drafts", "speculate", "mtp"), "drafts"),
    **dict.fromkeys(("gpus", "devices", "gpu_count", "tp"), "several GPUs"),
}
"""What people ask for that no published speed was predicted with, by the name of an argument."""
SLOW_S = 3.0
"""No forecast takes so long that compiles nothing."""
MOST_CONTEXT, MOST_GB = 2**27, 1e5


def main(argv: list[str]) -> int:
    """Forecast and print; 0 on success. Raises: UserError for bad input, and where no plan runs."""
    words = read(argv)
    if words.get("format", "text") not in ("text", "json"):
        raise UserError(f"format={words['format']}: must be text or json")
    from sim.forecast.answer import answer
    from sim.forecast.as_json import as_json
    from sim.forecast.ask import Ask
    from sim.forecast.models import read_model
    from sim.forecast.own_rows import foreign_rows, rows_of
    from sim.forecast.plans import RUNTIMES
    from sim.forecast.read_machine import read_machine
    from sim.forecast.routing import routing_for
    from sim.forecast.screen import screen
    from sim.forecast.shipped import shares_of, shipped_parameters

    placement = words.get("placement")
    runtimes = runtimes_of(words.get("runtime", ANY if placement is None else "llama_cpp"), tuple(RUNTIMES))
    if placement is not None and len(runtimes) > 1:
        raise UserError(f"placement={placement}: of one runtime: give runtime=llama_cpp or another one")
    context = int(number("context", words.get("context", "4096"), 0, MOST_CONTEXT, whole=True))
    prompt = int(number("prompt", words.get("prompt", "512"), 1, MOST_CONTEXT, whole=True))
    workspace = number("workspace", words.get("workspace", "1.5"), 0, MOST_GB)
    sizes: dict[str, float] = {
        name: number(name, words[name], 0.001, MOST_GB) for name in ("gpu_memory", "ram") if name in words
    }
    model = read_model(words["model"], words.get("quantisation"))
    routing = routing_for(model, words.get("card"), words.get("borrow"))
    name = words["hardware"]
    if name == HERE:
        name = probed(words.get("out", "here.yaml"))
    elif "out" in words:
        raise UserError(f"out={words['out']}: only with hardware={HERE}, which writes a file")
    machine = read_machine(name, shares_of(shipped_parameters()))
    machine = with_sizes(machine, sizes)
    ask = Ask(model, machine, routing, context, 1e9 * workspace, prompt, placement)
    with told_where_slow():
        found = answer(ask, runtimes, rows_of(machine, name), foreign_rows(name))
    print(json.dumps(as_json(found), indent=1) if words.get("format") == "json" else screen(found))
    return 0


def with_sizes(machine: ForecastMachine, sizes: Mapping[str, float]) -> ForecastMachine:
    """A machine with the memory that gpu_memory= and ram= say. Raises: UserError for more of a shared one than all."""
    if "ram" in sizes:
        machine = replace(machine, rates=replace(machine.rates, ram_bytes=1e9 * sizes["ram"]))
    if "gpu_memory" not in sizes:
        return machine
    size, all_of_it = 2.0**30 * sizes["gpu_memory"], machine.rates.ram_bytes
    if not machine.rates.unified:
        return replace(machine, rates=replace(machine.rates, vram_bytes=size))
    if all_of_it is not None and size > all_of_it:
        raise UserError(
            f"gpu_memory={sizes['gpu_memory']:g}: of the memory that CPU and GPU share: must be at most "
            f"{all_of_it / 2**30:.4g} GiB, which is {all_of_it / 1e9:g} GB"
        )
    return replace(machine, shared_bytes=size)


@contextmanager
def told_where_slow() -> Iterator[None]:
    """Say what takes so long where it does: replays of caches are compiled by the first forecast of a version."""
    words = "compiling replays of caches, once, up to a minute ..."
    timer = Timer(SLOW_S, print, (words,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def read(argv: list[str]) -> dict[str, str]:
    """Arguments by name. Raises: UserError for one that is not known, stands twice or is missing."""
    words: dict[str, str] = {}
    for word in argv:
        name, equals, value = word.partition("=")
        if name in KNOWN and not value.strip():
            raise UserError(f"forecast: {name}= is empty: must be {KNOWN[name]}")
        if name.split(".")[0] in NOT_FORECAST:
            what = NOT_FORECAST[name.split(".")[0]]
            raise UserError(
                f"forecast: {word}: {what} are not forecast, a forecast is of one request on one GPU without drafts: "
                "`python -m sim run trace=stand_in` replays them (batch_size, speculate.tokens, devices.count)"
            )
        if not equals or name not in KNOWN:
            listed = ", ".join(f"{known}={shown}" for known, shown in KNOWN.items())
            raise UserError(f"forecast: {word} is not known: the arguments are {listed}")
        if name in words:
            raise UserError(f"forecast: {name}= stands twice: give it once")
        words[name] = value
    for name in ("model", "hardware"):
        if name not in words:
            raise UserError(f"forecast: {name}= is missing: {name}={EXAMPLES[name]}; see --help")
    return words


def runtimes_of(words: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Names of runtimes. Raises: UserError for one that no plan is known of."""
    if words == ANY:
        return known
    names = tuple(dict.fromkeys(words.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"runtime={name}: must be {ANY} or some of {', '.join(known)}: no plan of others is known")
    return names


def number(name: str, text: str, least: float, most: float, whole: bool = False) -> float:
    """A number. Raises: UserError that names it and what is allowed."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{name}={text}: must be {kind} from {least:g} to {most:g}")
    return value


def probed(out: str) -> str:
    """Probe this machine into a file -> its path."""
    from sim.forecast.probe import probe
    from traces.whole_file import check_place

    path = Path(out).expanduser()
    if path.suffix != ".yaml":
        raise UserError(f"out={out}: must end in .yaml")
    check_place(path)
    print("probing this machine: RAM, CPU, storage, GPU and link; under a minute", file=sys.stderr)
    probe(path)
    print(f"kept in {path}: next time hardware={path}", file=sys.stderr)
    return str(path)
