"""The answer as one screen of text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from sim.forecast.answer import Answer, Change, Rated
from sim.forecast.ask import BENCH_CONTEXT, gib
from sim.forecast.machines import UNIFIED_SHARE
from sim.forecast.routing import Routing
from sim.forecast.shipped import error_after_one_row

WIDTH = 110
SHOWN = 3
REFUSED = 6
SELDOM = ("mixtral_offloading", "mlx_ssd")
"""Runtimes of one model or one kind of machine: not listed among what is not possible."""
NAMED = 3
"""Rows of one's own."""
LITTLE = 0.01
"""Share of a token's time that is no wait worth a word."""
CHANGE = 22
"""Characters of the names of what would help."""
_WAITS = {
    "GPU memory": "reading weights from GPU memory",
    "software": "launches and host code",
    "RAM": "reading experts from RAM",
    "CPU cores": "arithmetic of CPU cores",
    "link": "copying experts over PCIe",
    "storage": "reading experts from storage",
}


def screen(found: Answer) -> str:
    """All of it, at most one screen."""
    return "\n".join(_lines(found))


def rate(value: float) -> str:
    """Tokens per second with as many digits as mean something.

    >>> rate(3.456), rate(34.56), rate(345.6)
    ('3.5', '35', '346')
    """
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def between(one: Rated) -> str:
    """The interval of a plan."""
    return f"{rate(one.forecast.low)} to {rate(one.forecast.high)}"


def _lines(found: Answer) -> Iterator[str]:
    best = found.best
    yield f"{found.model.dimensions.name}, {found.model.quantisation}, {gb(found.model.bytes)}, on {found.machine.name}"
    if found.model.smaller:
        yield from _wrapped(found.model.smaller, "  ", 2)
    for words in found.machine.not_read:
        yield from _wrapped(f"NOT READ: {words}", "  ", 2)
    yield ""
    yield f"  {rate(best.forecast.tokens_per_s)} tokens/s while it writes (90 % interval: {between(best)})"
    if not best.checked:
        yield "  on paper: no published speed was predicted this way, so it may be off by more than its interval says"
    yield from _row("plan", f"{best.plan.runtime}: {best.plan.what}")
    yield from _row("run", best.plan.flags)
    if "--no-mmap" in best.plan.flags:
        yield from _row("", "--no-mmap reads the file into RAM at once; of a mapped one parts may be read again")
    if found.context == 0 and re.search(rf" {BENCH_CONTEXT}\b", best.plan.flags):
        yield from _row("", f"{BENCH_CONTEXT} tokens are room for an answer; context=0 is what a bench measures")
    dense = found.model.dimensions.dense_layers
    if dense and best.plan.setting.placement.cpu_layers and "--n-cpu-moe" in best.plan.flags:
        yield from _row("", f"llama.cpp counts dense layers, too: --n-cpu-moe is {dense} more than layers of experts")
    if found.looser is not None:
        yield from _row("", f"if it does not fit: {found.looser.flag}, {rate(found.looser.tokens_per_s)} tokens/s")
    yield from _memory(found)
    yield from _row("first token", _first_token(found))
    yield from _row("waits for", _waits(best))
    yield ""
    yield "the best plans, tokens/s (90 % interval), in the order of what is nearly certain, the interval's lower end"
    known = [one for one in found.rated if one.checked][:SHOWN]
    for number, one in enumerate(known, 1):
        yield from _plan(str(number), one, with_flags=number > 1)
    yield from _reordered(found)
    if not known:
        yield "  none of a kind that published speeds speak of"
    paper = sorted((one for one in found.rated if not one.checked), key=lambda one: -one.forecast.low)
    shown = [one for one in paper if one is best or one is found.on_paper][:SHOWN] or paper[: not known]
    if shown:
        yield ""
        yield "untested: on paper, no published speed was predicted this way"
        for one in shown:
            yield from _plan("*", one, with_flags=one is not best)
            yield from _wrapped(_cpu(one), "     ", 2)
    yield ""
    yield from _help(found)
    yield ""
    yield "what this rests on"
    yield from _row("speed", "SIMULATED terms, shares of nominal rates FITTED on published speeds of other machines")
    yield from _row("machine", "; ".join(found.machine.known))
    yield from _row("your rows", _own(found))
    yield from _row("routing", _routing(found.routing, found))
    for number, near in enumerate(found.nearest):
        ours = "" if near.predicted is None else f", predicted {rate(near.predicted)} without it"
        yield from _row("like it" if number == 0 else "", f"{rate(near.measured)} measured{ours}: {near.what}")
    yield from _row("", _not_among(found))
    refused: dict[str, list[str]] = {}
    for refusal in found.refusals:
        if refusal.runtime not in SELDOM or len(found.refusals) == 1:
            refused.setdefault(refusal.why, []).append(refusal.runtime)
    if refused:
        yield ""
        yield "not possible"
        for why, runtimes in list(refused.items())[:REFUSED]:
            yield from _wrapped(f"{', '.join(dict.fromkeys(runtimes))}: {why}", "  ", 2)


def _plan(number: str, one: Rated, with_flags: bool) -> Iterator[str]:
    """A plan in the list of the best."""
    text = f"{number}  {rate(one.forecast.tokens_per_s):>5} ({between(one)})  {one.plan.runtime}: {one.plan.what}"
    yield from _wrapped(text, "  ", 3)
    if with_flags:
        yield from _wrapped(one.plan.flags, "     ", 2)


def _cpu(one: Rated) -> str:
    """What a cache hits, and what its misses cost."""
    if one.plan.hit_rate is None:
        return "waits for " + _waits(one)
    text = f"{100 * one.plan.hit_rate:.1f} % hits"
    if one.plan.layers:
        wait = one.forecast.shares.get("RAM", 0.0) + one.forecast.shares.get("CPU cores", 0.0)
        text += f"; the CPU computes {100 * (1 - one.plan.hit_rate):.1f} % of the experts"
        text += f", {100 * sum(one.plan.layers[1:]):.0f} % of layers have some"
        if wait < LITTLE:
            text += ", and that hides behind the GPU's: faster RAM brings nothing"
    return f"{text}; waits for {_waits(one)}"


def _help(found: Answer) -> Iterator[str]:
    """What would help; sizes of GPU that give the same share a line."""
    speed = found.machine.rates.gpu_bytes_per_s
    sizes = any(change.what.startswith(GPU_SIZE) for change in found.changes)
    same = f" (GPUs at the same {speed / 1e9:.0f} GB/s)" if speed and sizes else ""
    yield f"what would help, each alone, with the best plan then{same}"
    best, base = found.best, found.without_rows[0]
    if any(one.forecast.moved for one in found.rated):
        other = (best.plan.runtime, best.plan.what) != (base.plan.runtime, base.plan.what)
        plan = f", over {rate(base.forecast.tokens_per_s)} tokens/s of {base.plan.runtime}, {base.plan.what}"
        yield from _wrapped(f"ratios: both sides without your rows{plan if other else ''}", "  ", 2)
    texts: dict[tuple[bool, str], list[str]] = {}
    for change in found.changes:
        gpu = change.what.startswith(GPU_SIZE)
        texts.setdefault((gpu, _used(change, found) if gpu else change.what), []).append(change.what)
    by_name = {change.what: change for change in found.changes}
    rows = [(_together(names), _used(by_name[names[0]], found)) for names in texts.values()]
    width = max(CHANGE, *(len(name) + 2 for name, _ in rows))
    for name, text in rows:
        yield from _row(name, text, width)


GPU_SIZE = "this GPU with "


def _together(names: list[str]) -> str:
    """this GPU with 24 or 32 GB."""
    sizes = [name.removeprefix(GPU_SIZE).removesuffix(" GB") for name in names]
    return names[0] if len(names) == 1 else f"{GPU_SIZE}{', '.join(sizes[:-1])} or {sizes[-1]} GB"


def _used(change: Change, found: Answer) -> str:
    """A change, and of more memory how much of what there is is used."""
    has = found.machine.rates.ram_bytes
    if not change.what.startswith("twice") or has is None or change.ratio is None or not found.best.checked:
        return _change(change)
    plan = found.without_rows[0].plan
    used = plan.gpu_bytes if found.machine.rates.unified else plan.host_bytes
    return f"{_change(change)}, {used / 1e9:.1f} of {has / 1e9:.0f} GB used"


def _reordered(found: Answer) -> Iterator[str]:
    """That plans changed places because rows of the machine moved some of them by more than the others."""
    before = [(one.plan.runtime, one.plan.what) for one in found.without_rows if one.checked]
    if before == [(one.plan.runtime, one.plan.what) for one in found.rated if one.checked]:
        return
    own, others = (
        ", ".join(dict.fromkeys(one.plan.runtime for one in found.rated if one.checked and rows(one)))
        for rows in (lambda one: one.forecast.rows_before, lambda one: not one.forecast.rows_before)
    )
    text = f"order changed by your rows, of {own or 'other plans'}"
    yield from _wrapped(f"{text}; by what the parts reach alone: {others or 'none'}", "  ", 2)


def _not_among(found: Answer) -> str:
    """What the published rows that are shown are not."""
    lacks = []
    if found.machine.rates.gpu is not None and not any(near.same_gpu for near in found.nearest):
        lacks.append(f"no row of a {found.machine.rates.gpu.part}")
    if not any(near.same_model for near in found.nearest):
        lacks.append("none of this model")
    return f"among these: {' and '.join(lacks)}" if lacks and found.nearest else ""


def _change(change: Change) -> str:
    if change.tokens_per_s is None or change.ratio is None:
        return change.why_not
    return f"{rate(change.tokens_per_s)} tokens/s, x{change.ratio:.2f}: {change.plan}"


def gb(size: float) -> str:
    """Bytes in GB."""
    return f"{size / 1e9:.1f} GB"


def _memory(found: Answer) -> Iterator[str]:
    plan, ask = found.best.plan, found.ask
    if plan.gpu_bytes:
        yield from _row(
            "GPU memory",
            f"{gib(plan.gpu_bytes)} of {gib(ask.machine.gpu_bytes)}{_shared(found)}, "
            f"with K and V of context={ask.context} "
            f"({gib(ask.kv_bytes)}) and workspace={ask.workspace_bytes / 1e9:g} ({gib(ask.workspace_bytes)})",
        )
    if plan.host_bytes:
        ram = ask.machine.rates.ram_bytes
        has = f"of {gb(ram)}" if ram else "(how much RAM there is is not stated: check that it fits)"
        yield from _row("RAM", f"{gb(plan.host_bytes)} {has}")


def _shared(found: Answer) -> str:
    """How much of a memory that CPU and GPU share the GPU may fill, and how that is known."""
    if not found.machine.rates.unified or found.machine.shared_bytes is not None:
        return ""
    return f" ({100 * UNIFIED_SHARE:.0f} % of all, ESTIMATED: gpu_memory= says what yours lets it fill)"


def _first_token(found: Answer) -> str:
    told = found.first_token
    if told is None:
        return "not forecast: published prompts say nothing of such a plan"
    return (
        f"of a prompt of {told.prompt:,} tokens after {told.seconds:.2g} s (90 % interval: {told.low:.1g} to "
        f"{told.high:.2g}; from published prompts of {told.families} machines)"
    )


def _waits(best: Rated) -> str:
    words = [f"{_WAITS[name]} {100 * share:.0f} %" for name, share in best.forecast.shares.items() if share >= 0.005]
    close = f"; {_WAITS[best.forecast.close]} close behind" if best.forecast.close else ""
    return ", ".join(words) + close


def _moved(one: Rated) -> str:
    """What rows of this machine did to a plan."""
    told = one.forecast
    more = len(told.rows) - NAMED
    names = ", ".join(told.rows[:NAMED]) + (f" and {more} more" if more > 0 else "")
    wide = "; another model's: the interval stays as wide as without" if told.as_wide else ""
    if not told.rows_before:
        wide = "; of other plans: by what the parts reach, not its software; the interval is no narrower"
    factor = told.tokens_per_s / told.plain
    return f"{rate(told.plain)} -> {rate(told.tokens_per_s)} by {names}, x{factor:.2f}{wide}"


def _own(found: Answer) -> str:
    if found.best.forecast.moved:
        return _moved(found.best)
    other = "none of this machine; "
    if found.foreign_rows:
        other += f"kept are {found.foreign_rows} of other hardware= (`python -m sim measured` lists them); "
    half = 100 * error_after_one_row()
    return (
        f"{other}`python -m sim measured FILE` adds one; after one, half of the published rows are within {half:.0f} %"
    )


def _routing(routing: Routing | None, found: Answer) -> str:
    if found.best.plan.hit_rate is not None and routing is not None:
        return f"{100 * found.best.plan.hit_rate:.0f} % hits, {routing.said()}"
    if routing is not None and any(one.plan.hit_rate is not None for one in found.rated):
        return f"only the untested plans rest on it: {routing.said()}"
    return "none needed: where the experts are does not depend on the text"


def _row(name: str, text: str, width: int = 13) -> Iterator[str]:
    yield from _wrapped(f"{name:<{width}}{text}", "  ", width)


def _wrapped(text: str, indent: str, more: int) -> Iterator[str]:
    kept = re.sub(r"(?<=\d) (?=%|GB|GiB|s\b|tokens)", "\u00a0", text)  # a number stays with its unit
    for line in textwrap.wrap(
        kept, WIDTH, initial_indent=indent, subsequent_indent=indent + " " * more, break_long_words=False,
        break_on_hyphens=False,
    ):  # fmt: skip
        yield line.replace("\u00a0", " ")
