"""Inputs that are far larger inside than on disk, of every format that the tool reads, and what reads each.

Run as a script: reads each in this one process and prints a JSON object of what it took.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import resource
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from traces.importers import load_importer

Case = tuple[str, Callable[[Path], Any]]
MB = 1 << 20


def yaml_bombs(rng: Random) -> Iterator[str]:
    """Aliases of aliases in lists, mappings and merges; of a long text; many and deep values."""
    width, depth = rng.randrange(3, 12), rng.randrange(12, 40)
    yield "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth))])
    pairs = "{{{}}}"
    yield "\n".join(
        ["a0: &a0 {x: 1}"]
        + [f"a{i}: &a{i} {pairs.format(', '.join(f'k{j}: *a{i - 1}' for j in range(width)))}" for i in range(1, depth)]
    )
    yield "\n".join(
        ["a0: &a0 {x: 1}"]
        + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * width)}], y{i}: 1}}" for i in range(1, depth)]
    )
    yield f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 90_000)}]"
    yield "a: [" + "1," * 450_000 + "]"
    yield "a: " + "[" * 100_000
    yield "a: " + "{b: " * 10_000
    yield "&a a: &b [*b]"
    yield "x" * (3 * MB)


def json_bombs(rng: Random) -> Iterator[bytes]:
    """Many small values, deep ones, and more bytes than such a file has."""
    yield b'{"a": [' + b"[]," * rng.randrange(3 * MB, 4 * MB) + b"[]]}"
    yield b'{"a": [' + b"{}," * (3 * MB) + b"{}]}"
    yield b'{"a": ' + b"[" * 200_000
    yield b'{"a": "' + b"x" * (40 * MB) + b'"}'


def archive(path: Path, arrays: int, each: int) -> None:
    """An .npz of arrays of zeros."""
    out = io.BytesIO()
    np.save(out, np.zeros((each // 8, 1, 1), np.int64))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(arrays):
            file.writestr(f"{number}.npy", out.getvalue())


def table(path: Path, rows: int, names: tuple[str, ...], texts: bool = False) -> None:
    """A Parquet file of constant rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = MB
    columns: dict[str, Any] = {name: np.zeros(part, np.int64) for name in names}
    schema = pa.table(columns).schema
    if texts:
        long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(part, np.int32)), pa.array(["x" * MB]))
        columns["key"] = long
        schema = pa.table(columns).schema
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for _ in range(rows // part):
            file.write_table(pa.table(columns, schema=schema))


def header(path: Path, text: bytes) -> None:
    """A safetensors file with this header."""
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def headers(rng: Random) -> Iterator[bytes]:
    """Headers within the bytes that are read, with as many values as these hold."""
    count = rng.randrange(4 * MB, 5 * MB)
    yield b'{"a":[' + b"[]," * count + b"[]]}"
    yield b'{"__metadata__":{"a":' + json.dumps("[" + "[]," * count + "[]]").encode() + b"}}"
    yield b"{" + b",".join(b'"%d":{}' % number for number in range(rng.randrange(300_000, 400_000))) + b"}"


def model_folder(folder: Path, **config: Any) -> Path:
    """A folder that looks like a model's, with one small tensor."""
    folder.mkdir()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 8, "vocab_size": 300, "model_type": "mixtral", "num_local_experts": 4}
    (folder / "config.json").write_text(json.dumps(sizes | config))
    text = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def routing_tables(root: Path) -> Iterator[Path]:
    """Tables of routing, as `python -m sim import table` reads them, of one row again and again."""
    table(root / "routing.parquet", 8 * MB, ("request", "token", "layer", "experts"))
    yield root / "routing.parquet"
    for name, head, row in (
        ("routing.csv.gz", b"request,token,layer,experts\n", b"0,0,0,1\n"),
        ("routing.jsonl.gz", b"", b'{"request":0,"token":0,"layer":0,"experts":[1]}\n'),
        ("line.csv.gz", b"", b"layer,"),
    ):
        (root / name).write_bytes(gzip.compress(head + row * (40 * MB // len(row))))
        yield root / name
    (root / "routing.json").write_bytes(b"[" + b'{"layer":0,"experts":[1]},' * MB + b"{}]")
    yield root / "routing.json"


def import_table(path: Path) -> Any:
    """The trace in a table of routing."""
    importer, parser = load_importer("table"), argparse.ArgumentParser()
    importer.add_options(parser)
    return importer.read(path, parser.parse_args(["--num-experts", "8"]))


def cases(root: Path, seed: int) -> Iterator[Case]:
    """Every input beside its reader; the input is written when its case is asked for."""
    import sim.assembly.catalogue
    from sim.figures.drawings.timeline import read_events
    from sim.figures.validation_table import read_validation
    from sim.group_files import with_files
    from sim.machine.hardware import read_hardware
    from sim.plain_yaml import read_plain_yaml
    from sim.predictors.checkpoint import read_checkpoint
    from sim.report.content import commands_of
    from sim.results.gather import _stacked
    from sim.results.json_files import read_json
    from sim.results.run_files import overrides_of, read_metrics, read_table
    from sim.results.table import _gathered
    from sim.sweep.end import failures_since
    from sim.validation.raw_runs import gathered
    from traces.demo.cache import training_summary
    from traces.format.files import read_trace
    from traces.importers._answers import read_answers
    from traces.importers._sources import npz_array, npz_names
    from traces.recording.loading import check_source

    rng = Random(seed)
    for number, text in enumerate(yaml_bombs(rng)):
        path = root / f"{number}.yaml"
        path.write_text(text)
        yield f"yaml {number}", lambda path: read_plain_yaml(path, "the file")
        if number:  # one reader is enough to try the others
            continue
        yield f"hardware yaml {number}", lambda path: read_hardware(path)
        for group in ("hardware", "model", "policy", "trace"):
            yield f"{group}={number}.yaml", lambda path, group=group: with_files([f"{group}={path}"])
        yield f"policy yaml {number}", lambda path: sim.assembly.catalogue._load(path)
        run = root / f"run{number}"
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra" / "overrides.yaml").write_text(text)
        (run / "multirun.yaml").write_text(text)
        yield f"overrides.yaml {number}", lambda path, run=run: overrides_of(run, {})
        yield f"multirun.yaml {number}", lambda path, run=run: commands_of(run, {})
    for number, data in enumerate(json_bombs(rng)):
        folder = root / f"json{number}"
        (folder / "failed").mkdir(parents=True)
        for name in ("metrics.json", "failed/a.json", "training.json", "runs.json"):
            (folder / name).write_bytes(data)
        (folder / "tokens.parquet").write_bytes(b"")
        yield f"results json {number}", lambda path, folder=folder: read_json(folder / "metrics.json")
        yield f"metrics.json {number}", lambda path, folder=folder: read_metrics(folder / "metrics.json")
        yield f"failures {number}", lambda path, folder=folder: failures_since(folder, 0)
        yield f"training.json {number}", lambda path, folder=folder: training_summary(folder)
        yield f"validation {number}", lambda path, folder=folder: gathered(folder)
    for number, data in enumerate((bytes(40 * MB), b'{"traceEvents":[' + b"{}," * (18 * MB) + b"{}]}")):
        (root / f"timeline{number}.gz").write_bytes(gzip.compress(data))
        yield f"timeline {number}", lambda path, number=number: read_events(root / f"timeline{number}.gz")
    (root / "validation.csv").write_bytes(b"," * (30 * MB))
    yield "validation.csv", lambda path: read_validation(root / "validation.csv")
    names = tuple(f"c{number}" for number in range(rng.randrange(2, 8)))
    table(root / "rows.parquet", 8 * MB, ("group", *names))
    table(root / "texts.parquet", 2 * MB, ("group",), texts=True)
    for name in ("rows", "texts"):
        path = root / f"{name}.parquet"
        yield f"parquet {name}", lambda _, path=path: read_table(path, ("group",))
        folder = root / f"parquet {name}"
        (folder / "run").mkdir(parents=True)
        for link in ("results.parquet", "tokens.parquet", "run/requests.parquet"):
            (folder / link).hardlink_to(path)
        (folder / "runs.json").write_text("[{}]")
        yield f"results.parquet {name}", lambda _, folder=folder: _gathered(folder)
        yield f"tokens.parquet {name}", lambda _, folder=folder: gathered(folder)
        yield f"gather {name}", lambda _, folder=folder: _stacked(folder, [folder / "run"], "requests")
    for path in routing_tables(root):
        yield f"import {path.name} 0", lambda _, path=path: import_table(path)
    for number, data in enumerate((b"[" + b"[]," * (4 * MB) + b"[]]", b'{"choices": [' + b"{}," * (3 * MB) + b"{}]}")):
        path = root / f"answers{number}.json"
        path.write_bytes(data)
        yield f"answers {number}", lambda _, path=path: read_answers(path, 2, 2)
    for number, (arrays, each) in enumerate(((rng.randrange(50, 80), MB), (1, 100 * MB), (300, 160 << 10))):
        path = root / f"{number}.npz"
        archive(path, arrays, each)
        yield f"npz {number}", lambda _, path=path: [npz_array(path, name) for name in npz_names(path)]
        yield f"npz {number}, one", lambda _, path=path: npz_array(path, "0")
    for number, text in enumerate(headers(rng)):
        path = root / f"{number}.safetensors"
        header(path, text)
        yield f"trace {number}", lambda _, path=path: read_trace(path)
        yield f"predictor {number}", lambda _, path=path: read_checkpoint(path)
        folder = model_folder(root / f"header{number}")
        (folder / "model.safetensors").write_bytes(path.read_bytes())
        yield f"weights {number}", lambda _, folder=folder: check_source(str(folder), False, 1.0)
    for number, config in enumerate(
        [{key: rng.randrange(2 * 10**6, 4 * 10**6)} for key in ("num_hidden_layers", "n_layer", "num_local_experts")]
        + [{"text_config": {"num_hidden_layers": 10**5}}, {"max_position_embeddings": 10**9}, {"hidden_size": 2**40}]
        + [{"a": [[]] * MB}, {"vocab_size": 10**12}, {"quantization_config": {"num_experts": 10**6}}]
    ):
        folder = model_folder(root / f"config{number}", **config)
        yield f"config.json {number}", lambda _, folder=folder: check_source(str(folder), False, 1.0)


def peak_bytes() -> int:
    """The most resident memory since it was last reset."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak() -> None:
    """Count the peak anew, where the system lets one."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main(seed: int) -> dict[str, tuple[str, int]]:
    """Name of every case -> (what reading it ended in, bytes of memory that it took beyond what was in use)."""
    from traces.errors import UserError

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, read in cases(root, seed):
            reset_peak()
            before = peak_bytes()
            number = name.split()[-1].removesuffix(".yaml").rpartition("=")[2]
            try:
                read(root / f"{number}.yaml")
                ended = "read"
            except UserError as error:
                ended = f"refused: {error}"
            except Exception as error:
                ended = f"{type(error).__name__}: {error}"
            found[name] = (ended, peak_bytes() - before)
    return found


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
