"""What the SMoE paper claims, what replays give for it, and why the two differ."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from scripts.studies.smoe.replays import (
    CHAIN,
    NOMINAL,
    SETUPS,
    Bench,
    Contender,
    Machine,
    Setup,
    Sums,
    change,
    change_interval,
    value,
)
from scripts.studies.smoe.rivals import rivals

Chooser = Callable[[Bench, Setup, int, Machine], Contender]
LRU, SMOE = Contender(), Contender(CHAIN)
FORMS = {"paper": ("paper", SMOE), "code": ("code", Contender(system="smoe_code")),
         "code 07": ("code", Contender(system="smoe_code_2026_07"))}  # fmt: skip
"""SMoE's forms -> the form of the lossless rivals, and SMoE: as published, as first released, as of July 2026."""
IMPLIED_CACHE_RATIO = (0.37, 0.41, 0.65, 0.73, 0.71)
"""LRU and the four steps, from the final 71 % on S3 and the published relative steps (means of all set-ups)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A published relative change of a measure from one contender to another, mean over set-ups."""

    text: str
    measure: str
    published: float
    old: Chooser
    new: Chooser
    batch: int = 1
    setups: tuple[Setup, ...] = SETUPS
    implied: tuple[float, float] | None = None
    """Levels that the published figures imply before and after."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the replays give for a claim."""

    claim: Claim
    ours: float
    low: float
    high: float
    machines: dict[Machine, float]
    """The same under other host costs and CPU speeds."""
    waiting: float
    """Share of the time before the step that is waiting for link or CPU: the most that any rule could save."""
    waiting_bare: float
    """The same if the host took no time."""
    levels: tuple[float, float]
    """Mean value of the measure before and after."""
    older: tuple[float, float, float]
    """Ours, low and high at the capacities that the older code fixed, against the same rivals."""
    rivals: tuple[str, ...]
    """What it is compared with in each set-up."""

    @property
    def verdict(self) -> str:
        return judge(self.claim.published, (self.low, self.high), self.older[1:], tuple(self.machines.values()))

    @property
    def reason(self) -> str:
        """Why it differs, in figures of the replays."""
        near = min(self.machines, key=lambda machine: abs(self.machines[machine] - self.claim.published))
        words = [f"nearest {self.machines[near]:+.0%} at host {near.host_s * 1e3:g} ms, CPU {near.cpu_ratio:.2f} loads"]
        if self.claim.measure == "TPOT":
            words.insert(0, f"waiting is {self.waiting:.0%} of TPOT before ({self.waiting_bare:.0%} at host 0)")
        else:
            words[0] = f"{self.levels[0]:.0%} -> {self.levels[1]:.0%}"
            if self.claim.implied is not None:
                words.append("the paper implies {:.0%} -> {:.0%}".format(*self.claim.implied))
        if self.claim.text.startswith("SMoE"):
            words.append(f"against {', '.join(dict.fromkeys(self.rivals))}")
        return "; ".join(words)


def judge(published: float, bounds: tuple[float, float], older: tuple[float, float], machines: Sequence[float]) -> str:
    """Where a published change lies: in our interval, in that at the older capacities, among the machines, or not."""
    low, high = bounds
    if low <= published <= high:
        return "agrees"
    if older[0] <= published <= older[1]:
        return "agrees at older capacities"
    if min([low, *machines]) <= published <= max([high, *machines]):
        return "agrees for some machine"
    if low <= 0.0 <= high:
        return "no effect here"
    ours = (low + high) / 2
    if ours * published < 0:
        return "contradicts"
    return "same sign, weaker" if abs(ours) < abs(published) else "same sign, stronger"


def fixed(contender: Contender) -> Chooser:
    """The same contender everywhere."""
    return lambda bench, setup, batch, machine: contender


CHAIN_MEMBERS = [fixed(Contender(CHAIN[:steps])) for steps in range(len(CHAIN) + 1)]
"""LRU with the first 0 to 4 parts of SMoE."""


def best_of(contenders: Sequence[Contender]) -> Chooser:
    """The one with the lowest TPOT in that set-up, on that machine."""

    def choose(bench: Bench, setup: Setup, batch: int, machine: Machine) -> Contender:
        return min(contenders, key=lambda rival: value(bench.run(setup, rival, batch, machine), "TPOT"))

    return choose


def lead(bench: Bench, rival: Chooser, batch: int, machine: Machine, ours: Contender = SMOE) -> float:
    """Change of TPOT from the rival of each set-up to ours, mean over set-ups."""
    pairs = []
    for setup in SETUPS:
        old = bench.run(setup, rival(bench, setup, batch, machine), batch, machine)
        pairs.append((old, bench.run(setup, ours, batch, machine)))
    return change(pairs, "TPOT")


def baselines(setup: Setup, names: Sequence[str], side: str = "own") -> list[Contender]:
    """Baselines of a set-up: the paper has no llama.cpp for XVERSE, and llama.cpp computes on the CPU only."""
    absent = {"llama_cpp"} if side != "own" or setup.name == "S2" else set()
    return [Contender(system=name, side=side) for name in names if name not in absent]


def published_claims(batches: Sequence[int]) -> list[Claim]:
    """The paper's ablation (batch 1), and its TPOT against the best baseline: here the best lossless policy."""
    claims = []
    for measure, published in (("TPOT", (-0.08, -0.20, -0.14, -0.34)), ("cache ratio", (0.11, 0.60, 0.12, -0.03))):
        for step, (part, size) in enumerate(zip(CHAIN, published, strict=True)):
            implied = IMPLIED_CACHE_RATIO[step], IMPLIED_CACHE_RATIO[step + 1]
            members = CHAIN_MEMBERS[step], CHAIN_MEMBERS[step + 1]
            claims.append(Claim(f"+{part}", measure, size, *members, implied=implied if measure != "TPOT" else None))
    product = 0.92 * 0.80 * 0.86 * 0.66 - 1.0
    claims.append(Claim("all four parts", "TPOT", product, CHAIN_MEMBERS[0], CHAIN_MEMBERS[4]))
    leads = (
        ("all", 1, -0.24, SETUPS),
        ("S1", 1, -0.20, SETUPS[:1]),
        ("S3", 1, -0.34, SETUPS[2:]),
        ("all", 3, -0.35, SETUPS),
        ("S1", 3, -0.27, SETUPS[:1]),
        ("S3", 3, -0.48, SETUPS[2:]),
    )
    for name, (form, ours) in FORMS.items():
        best, full = best_of(rivals(form)), fixed(ours)
        for text, batch, size, setups in leads:
            claims.append(Claim(f"SMoE ({name}), best, {text}", "TPOT", size, best, full, batch, setups))
    return [claim for claim in claims if claim.batch in batches]


def examine(bench: Bench, claim: Claim, machines: Sequence[Machine]) -> Finding:
    """Replay both sides of a claim on every machine; intervals are those of the nominal one."""

    def pairs(machine: Machine, older: bool = False) -> list[tuple[Sums, Sums]]:
        runs = []
        for setup in claim.setups:
            sides = (side(bench, setup, claim.batch, machine) for side in (claim.old, claim.new))
            old, new = (bench.run(setup, contender, claim.batch, machine, older) for contender in sides)
            runs.append((old, new))
        return runs

    nominal, older, measure = pairs(NOMINAL), pairs(NOMINAL, older=True), claim.measure
    bare = pairs(Machine(host_s=0.0))
    return Finding(
        claim,
        change(nominal, measure),
        *change_interval(nominal, measure),
        {machine: change(pairs(machine), measure) for machine in machines},
        float(np.mean([old.share("link", "cpu") for old, _ in nominal])),
        float(np.mean([old.share("link", "cpu") for old, _ in bare])),
        (mean_value(nominal, 0, measure), mean_value(nominal, 1, measure)),
        (change(older, measure), *change_interval(older, measure)),
        tuple(claim.old(bench, setup, claim.batch, NOMINAL).label for setup in claim.setups),
    )


def mean_value(pairs: Sequence[tuple[Sums, Sums]], which: int, measure: str) -> float:
    """Mean over set-ups of one side of the pairs."""
    return float(np.mean([value(pair[which], measure) for pair in pairs]))


def table_of(bench: Bench, findings: Sequence[Finding]) -> str:
    """The claims as Markdown."""
    head = (
        "# What the SMoE paper claims, and what replays give\n\n"
        "Made by `python -m scripts.studies.smoe.ablation --out FOLDER`; SIMULATED, sizes ESTIMATED, "
        f"{bench.trace.num_requests} requests of {bench.trace.geometry.model}'s routing. Changes are means over S1, S2 "
        f"and S3 at {NOMINAL.host_s * 1e3:g} ms of host time per layer, an expert on the CPU in {NOMINAL.cpu_ratio:g} "
        "copies; the range is over host times of 0 to 3 ms and CPU experts of 1/3 to 1.08 copies. SMoE stands against "
        "the best lossless policy of the library in that set-up: its paper form against paper forms, its released code "
        "(`code`: main branch; `code 07`: July 2026) against released code.\n\n"
        "| claim | batch | measure | paper | ours | 95 % interval | other machines | verdict |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for f in findings:
        least, most = min(f.machines.values()), max(f.machines.values())
        rows.append(
            f"| {f.claim.text} | {f.claim.batch} | {f.claim.measure} | {f.claim.published:+.0%} | {f.ours:+.1%} "
            f"| {f.low:+.1%} to {f.high:+.1%} | {least:+.0%} to {most:+.0%} | {f.verdict} |\n"
        )
    return head + "".join(rows)


def write(folder: Path, bench: Bench, findings: Sequence[Finding]) -> None:
    """smoe_replays.csv, a row per replay, smoe_claims.json and smoe_claims.md."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "smoe_replays.csv").open("w", newline="") as file:
        table = csv.writer(file)
        names = ("setup", "contender", "batch", "host_s", "cpu_ratio", "figures", "older_capacity")
        table.writerow([*names, "tpot_s", "cache_ratio", "lost_gate_mass", "link_share", "cpu_share", "host_share"])
        for key, sums in bench.known.items():
            setup, contender, batch, machine, older = key
            shares = [sums.share(part) for part in ("link", "cpu", "host")]
            figures = [value(sums, "TPOT") / 1e9, value(sums, "cache ratio"), sums.lost_gate_mass]
            other = ";".join(f"{name}={set_to}" for name, set_to in machine.figures)
            where = [setup, contender.label, batch, machine.host_s, machine.cpu_ratio, other, older]
            table.writerow([*where, *figures, *shares])
    rows = [
        {"claim": f.claim.text, "batch": f.claim.batch, "measure": f.claim.measure, "published": f.claim.published}
        | {"ours": f.ours, "low": f.low, "high": f.high, "older": f.older, "verdict": f.verdict, "reason": f.reason}
        | {"machines": [asdict(machine) | {"ours": ours} for machine, ours in f.machines.items()]}
        for f in findings
    ]
    (folder / "smoe_claims.md").write_text(table_of(bench, findings))
    (folder / "smoe_claims.json").write_text(json.dumps({"label": "SIMULATED", "claims": rows}, indent=2) + "\n")
