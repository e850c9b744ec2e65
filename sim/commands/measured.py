"""Keep a speed that you measured, so that the next forecasts of that machine start from it; without FILE list them.

usage: python -m sim measured [FILE.yaml | FILE.csv [force=true] | remove=ROW]

FILE holds one row or several in the form of docs/validation/corpus/corpus.csv. Each is checked field by field,
predicted without it, and kept in your data folder (MOE_SIM_DATA, else that of the system). From then on `forecast` with
the same parts in hardware= is calibrated by it where the kinds of runtime and of placement are the same. A speed that
no bandwidth allows is refused, one far outside its forecast unless force=true.

Of llama-bench enter t/s of the line tg128 (not pp512, the prompt), and as context its -d, 0 where none was given; of
llama-server "eval time ... tokens per second" (not "prompt eval") and the tokens that were in the context by then.

A row as yaml:
  machine_id: RTX 4070, Ryzen 7 7700, 2ch DDR5-5600, 64 GB RAM    what you give forecast as hardware=
  model: qwen3_30b_a3b              what you give it as model=
  quantisation: Q4_K_M              left out where the model's file says
  runtime: llama.cpp
  flags: -ngl 99 --n-cpu-moe 30     or placement_value: all resident, CPU only, exps=CPU, 40 % of experts on GPU
  context: 4096                     tokens that were there already; left out: none is assumed
  decode_tok_s: 31.2                tokens per second while it writes, prompt left out

examples:
  python -m sim measured row.yaml
  python -m sim measured
  python -m sim measured remove=own.1
"""

from __future__ import annotations

from pathlib import Path

from traces.errors import UserError

REMOVE, FORCE = "remove", "force=true"


def main(argv: list[str]) -> int:
    """Add, list or remove rows; 0 on success. Raises: UserError for bad input; nothing is kept then."""
    from sim.forecast.own_rows import remove_row

    if not argv:
        return listing()
    forced = FORCE in argv[1:]
    argv = [word for word in argv if word != FORCE] if forced else argv
    if len(argv) > 1:
        raise UserError(f"measured takes one file, got {len(argv)} words: see `python -m sim measured --help`")
    name, equals, value = argv[0].partition("=")
    if equals and name == REMOVE:
        gone = remove_row(value)
        print(
            f"removed {gone.row.row_id}: {gone.row.model} on {gone.row.machine_id}, {gone.row.decode_tok_s:g} tokens/s"
        )
        return 0
    if equals and not Path(argv[0]).exists():
        raise UserError(f"measured: {argv[0]} is not known: must be a csv or yaml file, or {REMOVE}=ROW")
    return adding(Path(argv[0]).expanduser(), forced)


def listing() -> int:
    """Print the rows that are kept."""
    from sim.forecast.own_rows import FILE, kept_rows, user_folder

    kept = kept_rows()
    if not kept:
        print(f"no rows of your own in {user_folder() / FILE}: `python -m sim measured --help` shows one")
        return 0
    for own in kept:
        row = own.row
        where = row.placement_value or row.flags or f"hit rate {row.hit_rate}"
        what = f"{row.model} {row.quantisation}".strip()
        print(
            f"{row.row_id}  {row.decode_tok_s:g} tokens/s  {what}  {row.runtime}  {where}\n       on {row.machine_id}"
        )
    print(f"{len(kept)} MEASURED by you, in {user_folder() / FILE}")
    return 0


def after(rows: int) -> str:
    """What a prediction knew of the machine."""
    return f"after {rows} row{'s' * (rows != 1)} of yours" if rows else "without any row of yours"


def adding(path: Path, forced: bool = False) -> int:
    """Check, predict, keep and say what the rows change."""
    from sim.forecast.own_rows import FILE, add_rows, check_believable, read_rows, rows_of, setting_of, user_folder
    from sim.forecast.predict import forecast
    from sim.forecast.read_machine import read_machine
    from sim.forecast.screen import rate
    from sim.forecast.shipped import shares_of, shipped_parameters

    shares = shares_of(shipped_parameters())
    rows = read_rows(path)
    machines = {own.machine: read_machine(own.row.machine_id, shares) for own in rows}
    lines = []
    before = {own.machine: rows_of(machines[own.machine], own.row.machine_id) for own in rows}
    for own in rows:
        setting = setting_of(own, machines[own.machine])
        found = forecast(setting, before[own.machine])
        check_believable(setting, forced)
        off = 100 * (found.tokens_per_s / setting.measured - 1)
        inside = "inside" if found.low <= setting.measured <= found.high else "OUTSIDE"
        lines.append(
            f"{setting.measured:g} tokens/s MEASURED; predicted {rate(found.tokens_per_s)} (90 %: {rate(found.low)} to "
            f"{rate(found.high)}) {after(found.rows_before)}: {off:+.0f} %, "
            f"{inside} the interval"
            f"{'' if setting.row.context else f'; no context: {setting.context} tokens assumed'}"
        )
        before[own.machine].append(setting)
    named = add_rows(rows)
    for own, line in zip(named, lines, strict=True):
        print(f"{own.row.row_id}  {own.row.model} on {own.row.machine_id}:\n       {line}")
    print(f"kept in {user_folder() / FILE}; forecasts with these parts, kind of runtime and placement start from it")
    print(f"to take it out again: python -m sim measured {REMOVE}={named[-1].row.row_id}")
    return 0
