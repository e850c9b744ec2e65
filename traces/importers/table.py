"""Routing in any table: CSV, TSV, JSON lines, JSON or Parquet.

A row is one rank, or one token in one layer; text may be gzip. Columns are recognised by their names or named with
options: request (or dialogue and turn), step, token, layer, rank, experts (one per row, a list, a list per token, or a
column per rank), weights, scores of all experts, phase, token_id. Only layer and experts must be there. Without tokens
the order of the file numbers them: layer by layer in a forward pass over several tokens, or token by token.
Layers are numbered from anywhere; those that are missing or hold only expert 0 or -1 are dense. Ids of -1, empty cells
and shorter lists are ranks without an expert; rows of -1 at the beginning of a request are a cached prefix. Turns of a
dialogue become one request, without what a later turn repeats.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traces.errors import UserError
from traces.format.trace import Trace
from traces.importers._assembly import assemble
from traces.importers._columns import (
    EXPERT,
    LAYER,
    ROLES,
    Layout,
    add_column_options,
    chosen_columns,
    nearest,
    recognise,
)
from traces.importers._entries import Reader
from traces.importers._said import restored, said_of
from traces.importers._sources import add_model_options, check_num_experts, integers_option, require, sha256_of
from traces.importers._tables import Table, open_table
from traces.importers._values import MISSING

EXAMPLE = "table routing.csv out.safetensors --num-experts 64"


@dataclass(frozen=True, slots=True)
class Preset:
    """What is known of one tool's tables: which column stands for what, and which hold nothing that a trace has.

    `columns`: role -> column, or several of which one is there. `others`: columns that hold nothing, where all that are
    neither these nor those are refused. `only`: rows with another value in a column are left out; `must`: they are
    refused. `metadata`: what the file must say of itself. `best_first`: the order of a row's experts is that of merit.
    `phase`: that of rows that name none, where some do. `source`: address of the tool.
    """

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] | None = None
    only: Mapping[str, str] = field(default_factory=dict)
    must: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    best_first: bool = False
    phase: int | None = None
    source: str = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add names of columns and what a table may not say."""
    add_table_options(parser)
    parser.add_argument(
        "--header", metavar="NAME,...", help="names of the columns of a CSV file without a line of them"
    )
    add_column_options(parser)


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add what a table may not say."""
    add_model_options(parser, required=False)
    parser.add_argument(
        "--prompt-len",
        type=integers_option,
        metavar="N[,N...]",
        help="tokens of the prompt, one for all or per request",
    )
    parser.add_argument(
        "--decode-only", action="store_true", help="no row is of the prompt, whose length is --prompt-len"
    )
    parser.add_argument(
        "--dense-layers", type=integers_option, default=(), metavar="N[,N...]", help="layers without experts"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="a token that lacks a layer used no expert in it (else refused)"
    )
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="experts per token, where no column numbers tokens or ranks"
    )
    parser.add_argument("--ranked", action="store_true", help="the experts of a row are best first")
    parser.add_argument(
        "--expert-bytes",
        type=integers_option,
        metavar="N[,N...]",
        help="bytes of one expert, one for all or per MoE layer",
    )


def read(source: Path, options: argparse.Namespace) -> Trace:
    """The trace in file `source`."""
    return read_table(source, options, Preset("table"))


def read_table(source: Path, options: argparse.Namespace, preset: Preset) -> Trace:
    """The trace in file `source`, whose columns `preset` settles where the command line does not.

    Raises: UserError for a file that is no such table.
    """
    if options.num_experts is not None:
        check_num_experts(options.num_experts)
    if options.top_k is not None and not 1 <= options.top_k <= 1024:
        raise UserError(f"--top-k={options.top_k}: must be from 1 to 1024")
    header = getattr(options, "header", None)
    table = open_table(require(source, "file"), header.split(",") if header else None)
    for name, value in preset.metadata.items():
        if table.metadata.get(name) != value:
            raise UserError(f"{source.name}: its metadata has {name}={table.metadata.get(name)!r}: must be {value!r}")
    layout = _layout(source, table, preset, options)
    options = _completed(options, table.metadata)
    notes = []
    if layout.unused:
        notes.append(f"Columns that hold nothing for a trace: {', '.join(map(repr, layout.unused[:20]))}.")
    provenance: dict[str, Any] = {
        "imported_from": preset.name,
        "sha256": {source.name: sha256_of(source)},
        "columns": {role: list(names) for role, names in layout.columns.items()},
        "notes": notes,
    }
    if preset.source:
        provenance["source"] = preset.source
    said = said_of(table.metadata)
    cells = Reader(source, table, layout, preset.only, preset.must).read()
    if preset.phase is not None and (cells.of["phase"] != MISSING).any():
        cells.of["phase"][cells.of["phase"] == MISSING] = preset.phase
    best_first = preset.best_first or (cells.scalar and layout.has("rank") and said.get("ranked") is not False)
    best_first |= said.get("ranked") is True
    return restored(assemble(cells, options, provenance, best_first, said.get("first_token") == 0), said)


def _layout(source: Path, table: Table, preset: Preset, options: argparse.Namespace) -> Layout:
    """Which column stands for what.

    Raises: UserError as `recognise`, and for a column that the preset does not know.
    """
    names = {role: columns.split() for role, columns in preset.columns.items()}
    found = {role: next((one for one in columns if one in table.names), None) for role, columns in names.items()}
    chosen: dict[str, tuple[str, ...] | None] = {role: (one,) for role, one in found.items() if one is not None}
    known = (*(preset.others or ()), *preset.only, *preset.must)
    if preset.others is not None:
        fields = [*(one for columns in names.values() for one in columns), *known]
        if unknown := [name for name in table.names if name not in fields]:
            raise UserError(
                f"{source.name} has the field {unknown[0]!r}, which {preset.name} does not know; "
                f"{nearest(unknown[0], fields)}"
            )
        chosen = dict.fromkeys(ROLES, None) | chosen
        for role in (LAYER, EXPERT):
            if chosen[role] is None:
                raise UserError(f"{source.name} has no field {preset.columns[role]!r}")
    return recognise(source.name, table.names, chosen | chosen_columns(options), known)


def _completed(options: argparse.Namespace, metadata: Mapping[str, Any]) -> argparse.Namespace:
    """The options with what the file itself says of the model."""
    values = vars(options).copy()
    claim = metadata.get("num_experts")
    if isinstance(claim, int) and not isinstance(claim, bool) and values["num_experts"] is None:
        check_num_experts(claim)
        values["num_experts"] = claim
    name = metadata.get("model", metadata.get("model_id", metadata.get("model_name")))
    if isinstance(name, str) and name and values["model"] == "unknown":
        values["model"] = name
    return argparse.Namespace(**values)
