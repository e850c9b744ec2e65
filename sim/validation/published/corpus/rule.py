"""Which rows the model can express: the first reason that keeps a row out, known before anything is predicted.

The reasons are about what a row is or leaves out, never about how well it is predicted. Rows that are kept out are
counted by reason and printed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sim.machine.model import Dimensions, geometry, read_every_token_bytes
from sim.validation.published.corpus.parts import Rates
from sim.validation.published.corpus.placement import (
    CPU_EXPERTS,
    CPU_ONLY,
    LINK_CACHE,
    RESIDENT,
    STORAGE_CACHE,
    Placement,
    assumed_placement,
    placement_of,
)
from sim.validation.published.corpus.sizes import KnownModel, bits_of, find_model, sized
from sim.validation.published.corpus.tables import Measurement, number_of

LONG_CONTEXT = 16_384
"""Tokens from which on a model whose attention cache is not known is left out."""
MMAP_FILLS = 0.7
"""Share of RAM that the experts in host memory may take where the file is mapped."""
NO_RATE = "no decode rate is stated"
DUPLICATE = "the same measurement stands in an earlier row"
NOT_STATED, PAGE_CACHE = "what was resident where is not stated", "page cache"


@dataclass(frozen=True, slots=True)
class Setting:
    """A row that can be expressed: sizes, placement, machine."""

    row: Measurement
    known: KnownModel
    model: Dimensions
    placement: Placement
    rates: Rates
    context: int
    runtime: str
    """Class of the runtime, see ``runtime_class``."""
    sockets: int
    threads: int | None
    assumed: bool = False
    """The placement is not the row's own, see ``express``."""
    software: str | None = None
    """File of `conf/runtime` whose costs count; None: that of the class."""

    @property
    def measured(self) -> float:
        """Tokens per second."""
        assert self.row.decode_tok_s is not None
        return self.row.decode_tok_s

    @property
    def kind(self) -> tuple[str, str, str]:
        """What a factor of a machine speaks for: class of runtime with the file of its costs, kind of placement."""
        return (self.runtime, self.software or "", self.placement.kind)

    @property
    def key(self) -> tuple[str, ...]:
        """Rows that share it calibrate each other: machine, build and class of runtime, kind of placement.

        Where the placement is assumed: rows that differ in nothing but their context.
        """
        row = self.row
        if self.assumed:
            alike = (row.model, row.quantisation, row.runtime, row.flags, row.placement_value, row.cache_slots_or_gib)
            return (row.machine_id, self.runtime, " | ".join(alike))
        return (row.machine_id, build_of(row.runtime), *self.kind)


LLAMA, GRAPHS, KTRANSFORMERS, IMP, OTHER = "llama.cpp", "graphs", "ktransformers", "imp", "other"
RUNTIMES = (
    (r"\bimp\b", IMP),
    (r"ktransformers|\bkt\b|kt\+|kt-kernel", KTRANSFORMERS),
    (r"vllm|sglang|tensorrt|trt-llm|exllama|freetoken|ninfer", GRAPHS),
    (r"colibri|turbo-?fieldfare|slotstream|boyle|\bds4\b|bigmoe|mlx|moe-l2|pytorch|transformers", OTHER),
    (r"llama|\bik\b|ik_|ollama|lm ?studio|kobold|owners|fitz", LLAMA),
)


_BUILD = re.compile(r"v\d+(?:\.\d+)+|\b\d+\.\d+(?:\.\d+)*\b|\b\d{4,6}\b|\bik\b|ik_")
IMP_POOL, IMP_POOL_SINCE = "imp_2026_08_pool", 1370
"""Costs of imp where fused kernels read the slots of its cache, and the pull request that made them do so."""


def build_of(runtime: str) -> str:
    """Words of a runtime's name that tell one build from another: versions, numbers of builds, forks.

    >>> build_of("KTransformers V0.2.1"), build_of("ik 4706"), build_of("llama.cpp server")
    ('v0.2.1', 'ik 4706', '')
    """
    return " ".join(_BUILD.findall(runtime.lower()))


def software_of(row: Measurement, runtime: str, placement: Placement, model: Dimensions) -> str | None:
    """The file of `conf/runtime` that describes a row's build, where it is not that of its class.

    imp's cache is read by fused kernels since pull request 1370, where it holds the matrices of a token's experts.
    """
    told = re.search(r"kekzl/imp ?#(\d{1,6})", row.source)
    if runtime != IMP or placement.kind != LINK_CACHE or not placement.lookup or told is None:
        return None
    slots = number_of(row.cache_slots_or_gib)
    holds = slots is None or slots >= 3 * model.top_k
    return IMP_POOL if int(told[1]) >= IMP_POOL_SINCE and holds else None


def runtime_class(runtime: str) -> str:
    """Runtimes that are alike in what they launch and where they wait; the words are those of the column."""
    return next((name for words, name in RUNTIMES if re.search(words, runtime.lower())), OTHER)


def reason_against(row: Measurement, rates: Rates) -> str | None:
    """Why a row is left out by what its words say; None where they allow it."""
    words, told = row.words, f"{row.words} | {row.remarks.lower()} | {row.context.lower()}"
    value = row.placement_value.lower()
    reasons = (
        (row.decode_tok_s is None, NO_RATE),
        (batch_of(row) != 1, "several requests at once, or how many is not stated"),
        (several_gpus(row, rates, words), "several GPUs"),
        (_speculates(row), "speculation, or drafts that are not said to be off"),
        (row.confidence == "low", "second hand, or in contradiction with itself (confidence low)"),
        (re.search(r"\bpeak\b", f"{value} | {row.flags.lower()}"), "a peak, not a mean"),
        (_prompt_included(row), "the rate includes the prompt"),
        (re.search(r"regression", words), "a build that its source calls a regression"),
        (
            re.search(r"whole layers|layer split", words) and "cpu-moe" not in words,
            "whole layers on the CPU, attention too",
        ),
        (re.search(r"top-?p 0|drops? (?:two )?experts|(?<!not )dropped", f"{words}"), "experts are dropped"),
        (
            re.search(r"page cache|misses are memcpy", f"{row.quantisation.lower()} | {row.remarks.lower()}"),
            PAGE_CACHE,
        ),
        (re.search(r"paging|exceeds ram|spill|with mmap", told), "paging, or memory of the GPU spilt over"),
        (len(re.findall(r"\d\s*/\s*\d", value)) > 0 and not row.hit_rate, "several settings in one row"),
    )
    return next((reason for applies, reason in reasons if applies), None)


def express(
    row: Measurement, rates: Rates, assume: bool = False, found: tuple[KnownModel, Dimensions] | None = None
) -> Setting | str:
    """The row as the model sees it, or the reason why it cannot.

    ``found``: its model with sizes; None: looked up by name and quantisation.

    ``assume``: also rows whose placement or hits are not stated, with a placement that stands for any: all experts on
    the CPU beside a GPU, half of them read from storage where the runtime streams. Such rows are worth their shape
    along the context only, once one of them has calibrated.
    """
    against = reason_against(row, rates)
    if against is not None and not (assume and against == PAGE_CACHE):
        return against
    sizes = found or model_of(row)
    if isinstance(sizes, str):
        return sizes
    known, model = sizes
    placement = placement_of(row, model)
    if placement is None or against is not None:
        if not assume:
            return NOT_STATED
        placement = assumed_placement(row, model)
    if placement.kind == CPU_ONLY and rates.unified:
        return "the CPU's share of a unified memory is not known"
    if placement.kind != CPU_ONLY and rates.gpu_bytes_per_s is None and placement.kind != STORAGE_CACHE:
        return "a GPU of unknown rate"
    if placement.kind == LINK_CACHE and rates.link_bytes_per_s is None:
        return "a link of unknown rate"
    context = context_of(row)
    if known.kv_bytes is None and context > LONG_CONTEXT:
        return "a long context, and the model's attention cache is not known"
    sockets = 1 if re.search(r"single socket", row.words) else rates.sockets
    runtime = runtime_class(f"{row.runtime} {row.placement_value if 'llama.cpp' in row.placement_value else ''}")
    if "llama.cpp" in row.placement_value:
        runtime = LLAMA
    if placement.kind in (CPU_EXPERTS, CPU_ONLY) and sockets > 1 and runtime != KTRANSFORMERS:
        return "two sockets without placement by NUMA node"
    if _fills_ram(row, model, placement, rates) or _spills(model, placement, rates):
        return "paging, or memory of the GPU spilt over"
    threads = re.search(r"(?:^|\s)-t (\d{1,6})", row.flags)
    return Setting(
        row, known, model, placement, rates, context, runtime, sockets,
        int(threads[1]) if threads else rates.threads, assume, software_of(row, runtime, placement, model),
    )  # fmt: skip


def model_of(row: Measurement) -> tuple[KnownModel, Dimensions] | str:
    """The model that a row names, with sizes by its quantisation, or the reason why there is none."""
    known = find_model(row.model)
    if known is None:
        return "a model of unknown size, or several in one row"
    bits = bits_of(row.quantisation, known)
    if bits is None:
        return "the quantisation is not stated"
    return known, sized(known, bits, _top_k(row, known.dimensions))


def express_all(
    rows: Sequence[Measurement], rates: dict[str, Rates]
) -> tuple[list[Setting], list[tuple[Measurement, str]]]:
    """Rows that can be expressed, and the others with their reasons; a measurement that stands twice counts once."""
    settings: list[Setting] = []
    against: list[tuple[Measurement, str]] = []
    seen: dict[tuple[str, float], list[str]] = {}
    for row in rows:
        found = express(row, rates[row.machine_id])
        if isinstance(found, Setting):
            value = (found.known.name, float(f"{found.measured:.3g}"))
            machines = seen.setdefault(value, [])
            # Three digits alike on one machine, or on a second one that another reading calls otherwise.
            if any(alike(machine, row, found.measured) for machine in machines):
                against.append((row, DUPLICATE))
                continue
            machines.append(row.machine_id)
            settings.append(found)
        else:
            against.append((row, found))
    return settings, against


def express_shapes(left_out: Sequence[tuple[Measurement, str]], rates: dict[str, Rates]) -> list[Setting]:
    """Rows left out for their placement or page cache, in series of several that differ only in their context."""
    found = [
        setting
        for row, reason in left_out
        if reason in (NOT_STATED, PAGE_CACHE)
        and isinstance(setting := express(row, rates[row.machine_id], assume=True), Setting)
    ]
    contexts: dict[tuple[str, ...], set[int]] = {}
    for setting in found:
        contexts.setdefault(setting.key, set()).add(setting.context)
    return [setting for setting in found if len(contexts[setting.key]) > 1]


def alike(machine: str, row: Measurement, measured: float) -> bool:
    """Whether an equal rate of the same model elsewhere is the same measurement: a second reading of a thread."""
    second = "second reading" in row.read_as.lower()
    return second and (machine == row.machine_id or measured >= 10)


def context_of(row: Measurement) -> int:
    """Tokens in the context while it decodes: stated and not only allocated; else 0."""
    text = row.context.lower()
    if not text:
        words = f"{row.runtime} | {row.remarks} | {row.placement_value}".lower()
        found = re.search(r"\b(\d{1,6})( ?k)? ctx|\bctx (\d{1,6})( ?k)?\b", words)
        if not found:
            return 0
        return int(found[1] or found[3]) * (1024 if found[2] or found[4] else 1)
    if "alloc" in f"{text} {row.remarks.lower()}" or re.match(r"tg|pp", text):
        return 0
    value = number_of(text)
    if value is None:
        return 0
    if re.match(r"\s*[\d.]+ ?k\b", text):
        return round(value * 1024)
    first = re.match(r"\s*[\d,]+", text)
    return int(first[0].replace(",", "")) if first and "prompt" in text else round(value)


def batch_of(row: Measurement) -> float | None:
    """Requests at once; a row that says nothing is of one."""
    return number_of(row.batch) if row.batch else 1.0


def several_gpus(row: Measurement, rates: Rates, words: str) -> bool:
    """Whether more than one GPU ran it."""
    if re.search(r"\b[02] gpus?\b.*layers|\b0 gpus?\b", words):
        return True
    stated = re.search(r"\b(\d{1,6}) ?gpus?\b(?! ?experts| layers)", row.placement_value.lower())
    if stated:
        return int(stated[1]) != 1
    if re.search(r"\btp ?\d|tp=\d|tensor.parallel|expert.parallel", words):
        return True
    return rates.gpu_count is not None and rates.gpu_count > 1


def _speculates(row: Measurement) -> bool:
    off = re.search(r"mtp off|mtp=0|draft=0|no mtp", f"{row.flags} {row.placement_value}".lower())
    if off or row.draft_length.strip() == "0":
        return False
    text = f"{row.flags} {row.placement_value} {row.remarks} {row.quote_of_figures_only} {row.placement_kind}".lower()
    drafts = re.search(r"\bmtp\b|mtp[-=]?\d|acceptance|drafter|draft model|speculation on|eagle|dflash", text)
    head = "mtp" in row.quantisation.lower()
    return bool(row.draft_length or drafts or head)


def _prompt_included(row: Measurement) -> bool:
    text = f"{row.remarks} | {row.context}".lower()
    told = re.search(r"incl(?:udes|uding|\.) (?:the )?(?:prompt|prefill)|prefill included|includes prompt", text)
    return bool(told) and "generation" not in row.quote_of_figures_only.lower()


def _top_k(row: Measurement, model: Dimensions) -> int | None:
    """Experts a token where the row says another number than the model's."""
    found = re.search(
        r"\bk=(\d{1,6})|\((\d{1,6}) experts\)|\b(\d{1,6}) experts\b(?! on| resident)",
        f"{row.placement_value} {row.model}".lower(),
    )
    number = int(next(filter(None, found.groups()))) if found else None
    return number if number is not None and 0 < number < model.top_k else None


def _spills(model: Dimensions, placement: Placement, rates: Rates) -> bool:
    """Whether weights that are called resident are more than the GPU's memory."""
    if placement.kind != RESIDENT or rates.vram_bytes is None:
        return False
    sizes = geometry(model)
    return model.num_experts * sum(sizes.expert_bytes or ()) + read_every_token_bytes(sizes) > rates.vram_bytes


def _fills_ram(row: Measurement, model: Dimensions, placement: Placement, rates: Rates) -> bool:
    """Whether experts that lie in host memory fill it, so that a mapped file is paged."""
    if rates.ram_bytes is None or rates.unified or placement.kind not in (CPU_EXPERTS, CPU_ONLY):
        return False
    expert = 3 * model.hidden_size * model.expert_ffn * model.weight_bits / 8
    on_cpu = model.num_layers if placement.kind == CPU_ONLY else placement.cpu_layers
    return on_cpu * model.num_experts * expert > MMAP_FILLS * rates.ram_bytes and "no-mmap" not in row.words
