"""Rows that a user measured: read from a file in the corpus' form, checked, kept in the user's folder, predicted.

A row is one setting of one machine, as in `docs/validation/corpus/corpus.csv`; ``machine_id`` is what `hardware=` of a
forecast says. What is left out is empty, as there.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from sim.config import suggest
from sim.forecast.machine_parts import of_parts
from sim.forecast.machines import ForecastMachine
from sim.forecast.models import read_model
from sim.forecast.predict import forecast, model_key, most_tokens_per_s
from sim.machine.hardware import hardware_names
from sim.plain_yaml import read_plain_yaml
from sim.validation.published.corpus.placement import CPU_EXPERTS, LINK_CACHE, Placement, placement_of
from sim.validation.published.corpus.rule import IMP, IMP_POOL, Setting, express, runtime_class
from sim.validation.published.corpus.tables import COLUMNS, Measurement, measurement_of, read_csv
from traces.errors import UserError
from traces.text import printable
from traces.user_cache import NAME, make_private
from traces.whole_file import write_whole

FILE = "measured.csv"
FOLDER_VARIABLE = "MOE_SIM_DATA"
NEEDED = ("machine_id", "model", "runtime", "decode_tok_s")
MOST_ROWS = 10_000
LONGEST_HEADER = 10_000
SHOWN_CHARACTERS = 40
"""Of a name that is refused."""
_DEFAULTS = {"series_id": "own", "source": "own measurement", "confidence": "high", "batch": "1"}


@dataclass(frozen=True, slots=True)
class OwnRow:
    """A row of one's own with its name in the folder."""

    row: Measurement

    @property
    def machine(self) -> str:
        """Whose it is, comparable."""
        return machine_key(self.row.machine_id)


@cache
def machine_key(words: str) -> str:
    """What names a machine: a file by its name or place, parts by what they are, in whatever order they are said.

    How much RAM there is and how fast a drive reads are left out: they change no plan's time but by what fits.
    """
    if words in hardware_names():
        return words
    if words.endswith(".yaml"):
        return str(Path(words).expanduser().absolute())
    try:
        rates = of_parts(words).rates
    except UserError:
        return " ".join(words.lower().split())
    named = [part.part for part in (rates.gpu, rates.cpu) if part is not None]
    figures = (rates.vram_bytes, rates.ram_bytes_per_s, rates.link_bytes_per_s, rates.cores)
    return "; ".join([*named, *(f"{figure or 0:.4g}" for figure in figures)]).lower()


def user_folder() -> Path:
    """MOE_SIM_DATA if set, else the user data folder of this platform. Raises: UserError where there is none."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE]).expanduser()
    from platformdirs import user_data_path

    try:
        return user_data_path(NAME)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"no folder for your rows: set {FOLDER_VARIABLE} to one") from error


def kept_rows() -> list[OwnRow]:
    """All rows of the user's folder. Raises: UserError where its file was broken."""
    path = user_folder() / FILE
    if not path.is_file():
        return []
    rows = read_csv(path, COLUMNS, may_be_empty=True)
    return [OwnRow(_checked(f"{path} {cells['row_id']}", cells)) for cells in rows]


def read_rows(path: Path) -> list[OwnRow]:
    """The rows of a csv or yaml file, not yet named. Raises: UserError that names row, field, value, what may be."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file: must be a csv or yaml file with a row that was measured")
    if path.suffix.lower() == ".csv":
        given = [_known(f"{path.name} row {number}", cells) for number, cells in enumerate(_csv_rows(path), 1)]
    else:
        content = read_plain_yaml(path, f"{path}: the file")
        listed = content if isinstance(content, list) else [content]
        given = [_known(f"{path.name} row {number}", cells) for number, cells in enumerate(listed, 1)]
    if not given or len(given) > MOST_ROWS:
        raise UserError(f"{path} has {len(given)} rows: must have from 1 to {MOST_ROWS}")
    return [OwnRow(_checked(f"{path.name} row {number}", cells)) for number, cells in enumerate(given, 1)]


def _csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(LONGEST_HEADER)
    try:
        names = [name.strip() for name in next(csv.reader([header], strict=True), [])]
    except csv.Error as error:
        raise UserError(f"{path.name} line 1: not a csv file: {error}") from None
    for name in names:
        _check_name(path.name, name)
    return read_csv(path, names)


def _known(where: str, cells: Any) -> dict[str, str]:
    """A row's cells as text, every column there. Raises: UserError for a field that is not one."""
    if not isinstance(cells, Mapping):
        raise UserError(f"{where}: must hold `field: value` lines")
    for name, value in cells.items():
        _check_name(where, str(name))
        if isinstance(value, Mapping | list | bool):
            raise UserError(f"{where}: {name}={value!r}: must be a text or a number")
    text = {str(name): "" if value is None else _text(value) for name, value in cells.items()}
    full = dict.fromkeys(COLUMNS, "") | _DEFAULTS | {name: value for name, value in text.items() if value}
    for name in NEEDED:
        if not full[name]:
            raise UserError(f"{where}: {name} is missing: a row needs {', '.join(NEEDED)}, and where the experts were")
    return full


def _text(value: Any) -> str:
    return " ".join((repr(value) if isinstance(value, float) else str(value)).split())


def _check_name(where: str, name: str) -> None:
    if name not in COLUMNS:
        shown = printable(name)[:SHOWN_CHARACTERS]
        raise UserError(f"{where}: {shown!r} is no field of a row: {suggest(shown, COLUMNS)}")


def _checked(where: str, cells: Mapping[str, str]) -> Measurement:
    row = measurement_of(where, {name: cells[name].strip() for name in COLUMNS}, (cells["machine_id"],))
    if row.decode_tok_s is None:
        raise UserError(f"{where}: decode_tok_s={cells['decode_tok_s']!r}: must be tokens per second above 0")
    return row


def setting_of(own: OwnRow, machine: ForecastMachine) -> Setting:
    """A row as the model sees it on a machine. Raises: UserError with the reason why it cannot be predicted."""
    row = replace(own.row, machine_id=machine.name)
    model = read_model(row.model, row.quantisation or None)
    where = f"row {row.row_id}" if row.row_id else "the row"
    setting = express(row, machine.rates, found=(model.known, model.dimensions))
    if isinstance(setting, str):
        hint = f" ({PLACEMENTS})" if "resident where" in setting else ""
        raise UserError(f"{where} of {row.machine_id}: it cannot be predicted: {setting}{hint}")
    if row.hit_rate is not None and re.search(_MOE_CACHE, row.words):
        placement = Placement(CPU_EXPERTS, gpu_share=row.hit_rate)
        return replace(setting, placement=placement, software="llama_cpp_moe_cache")
    if setting.runtime == IMP and setting.placement.kind == LINK_CACHE:
        return replace(setting, software=IMP_POOL)
    return setting


_MOE_CACHE = r"moe-expert-cache|27861"
"""llama.cpp's cache of experts, whose misses the CPU computes."""
PLACEMENTS = (
    "placement_value must be all resident, CPU only, --n-cpu-moe N, exps=CPU, or N % of experts on GPU; or hit_rate "
    "that of a cache"
)


def rows_of(machine: ForecastMachine, words: str) -> list[Setting]:
    """The user's rows of a machine, as the model sees them."""
    return [setting_of(own, machine) for own in kept_rows() if own.machine == machine_key(words)]


def foreign_rows(words: str) -> int:
    """How many rows are kept of other machines."""
    return sum(own.machine != machine_key(words) for own in kept_rows())


def check_believable(setting: Setting, forced: bool) -> None:
    """Raises: UserError for a speed above what bandwidth allows, and for one far outside its forecast unless forced.

    The forecast is that without the machine's rows: a first row that was wrong keeps out no right one.
    """
    measured, most, found = setting.measured, most_tokens_per_s(setting), forecast(setting, ())
    row = setting.row
    where = f"decode_tok_s={measured:g} ({row.model} on {row.machine_id})"
    if measured > most:
        raise UserError(
            f"{where}: no software reaches it: what a token must read takes all of the nominal bandwidth at {most:.0f} "
            "tokens/s; check the figure (decode, not prompt), the placement, and the RAM that machine_id says"
        )
    far = (found.high / found.tokens_per_s) ** FAR
    if not forced and not found.tokens_per_s / far <= measured <= found.tokens_per_s * far:
        raise UserError(
            f"{where}: far outside the forecast without rows, {found.tokens_per_s:.3g} (90 %: {found.low:.3g} to "
            f"{found.high:.3g}): "
            "check figure, placement and machine; force=true keeps it all the same"
        )


FAR = 2
"""Of an interval's logarithmic half width: what lies farther is taken for a slip unless it is forced."""


def add_rows(rows: Sequence[OwnRow]) -> list[OwnRow]:
    """Keep rows in the user's folder -> them with their names there.

    Raises: UserError where one stands there already, or the folder cannot be written.
    """
    kept = kept_rows()
    contents = {_content(own.row) for own in kept}
    for own in rows:
        if _content(own.row) in contents:
            raise UserError(
                f"this row stands in {user_folder() / FILE} already: {own.row.model}, {own.row.decode_tok_s:g} tokens/s"
            )
        contents.add(_content(own.row))
    taken = {own.row.row_id for own in kept}
    named: list[OwnRow] = []
    number = len(kept)
    for own in rows:
        name = own.row.row_id
        while not name or name in taken:
            number += 1
            name = f"own.{number}"
        taken.add(name)
        named.append(OwnRow(replace(own.row, row_id=name)))
    _write([*kept, *named])
    return named


def remove_row(name: str) -> OwnRow:
    """Take a row out of the folder. Raises: UserError where there is none of that name."""
    kept = kept_rows()
    gone = next((own for own in kept if own.row.row_id == name), None)
    if gone is None:
        listed = ", ".join(own.row.row_id for own in kept) or "none"
        raise UserError(f"remove={name}: must be the name of a row that is kept: {listed}")
    _write([own for own in kept if own is not gone])
    return gone


def _content(row: Measurement) -> tuple[Any, ...]:
    """What makes two rows one measurement, whatever model, machine and file are called."""
    try:
        model = read_model(row.model, row.quantisation or None).dimensions
    except UserError:  # of a file that is gone
        return (machine_key(row.machine_id), replace(row, row_id="", machine_id=""))
    placement = placement_of(row, model) or f"{row.placement_value} {row.flags} {row.cache_slots_or_gib}"
    return (
        machine_key(row.machine_id), model_key(model), runtime_class(row.runtime), str(placement), row.hit_rate,
        row.context, row.decode_tok_s,
    )  # fmt: skip


def _write(rows: Sequence[OwnRow]) -> None:
    folder = user_folder()
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for own in rows:
        writer.writerow({name: _cell(getattr(own.row, name)) for name in _NAMES})
    try:
        make_private(folder, folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made: {error.strerror or error}: set {FOLDER_VARIABLE} to a folder"
        ) from error
    write_whole(folder / FILE, text.getvalue().encode())


_NAMES = tuple(field.name for field in fields(Measurement))


def _cell(value: Any) -> str:
    return "" if value is None else _plain_number(value) if isinstance(value, float) else str(value)


def _plain_number(value: float) -> str:
    """Digits without an exponent, which the corpus' form does not take."""
    text = f"{value:.9f}".rstrip("0")
    return text.rstrip(".") or "0"
