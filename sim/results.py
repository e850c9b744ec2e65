"""What the runs in a folder came to: one table row per run, with intervals over its requests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import OmegaConf

from traces.errors import UserError

DRAWS, SEED = 1000, 0

# Parts of a token's time, as in `time_s_per_token.<part>`; they sum to the whole.
PARTS = ("attention", "expert", "link", "cpu", "launch", "sync", "host")

# Settings that tell two runs of one policy apart; the cache's capacity is the axis of every figure instead.
_SETTINGS = ("hardware", "model", "trace", "batch_size", "seed")
_CAPACITY = ("cache.fraction", "cache.slots_per_layer", "cache.bytes")


def collect(folder: Path) -> pd.DataFrame:
    """One row per run found in `folder` or below it: its metrics, what it ran, and 95 % intervals.

    Besides the metrics under their own names the columns are `folder`, `policy`, `hardware`, `model`, `trace`,
    `trace_hash`, `batch_size`, `seed`, `label`, `estimated` (tuple of sentences), `capacity` (share of all experts that
    the cache holds), `requests` (blocks of the intervals: requests, or lockstep batches), `hit_rate.low`,
    `hit_rate.high`, `tpot_s.low`, `tpot_s.high`, and `series`: the policy, and the settings in which the runs of the
    folder differ. Sorted by capacity and series.

    Raises: UserError when the folder holds no results, or when a file of a run is missing or broken.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the output folder of a run or a sweep")
    runs = sorted(path.parent for path in folder.rglob("metrics.json"))
    if not runs:
        raise UserError(f"{folder} holds no results: `python -m sim run` writes metrics.json into its output folder")
    rows = [_row(run) for run in runs]
    overrides = [_overrides(run) for run in runs]
    for row, name in zip(rows, _series_names(rows, overrides), strict=True):
        row["series"] = name
    return pd.DataFrame(rows).sort_values(["capacity", "series"], kind="stable", ignore_index=True)


def unfinished_runs(folder: Path) -> list[Path]:
    """Output folders of runs that began and left no metrics, so that a failed part of a sweep does not go unseen."""
    begun = sorted(path.parent for path in folder.rglob(".hydra"))
    return [run for run in begun if not any(run.rglob("metrics.json"))]


def request_interval(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], draws: int = DRAWS, seed: int = SEED
) -> tuple[float, float]:
    """95 % interval of sum(numerator) / sum(denominator) when whole requests are drawn again with replacement.

    Both [R], one value per request (or lockstep batch): the tokens of a request depend on each other, requests less so.
    NaN for fewer than two requests. Source: percentile bootstrap (Efron and Tibshirani 1993, chapter 13).
    """
    count = len(numerator)
    if count < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    ratios = np.empty(draws)
    for draw in range(draws):
        chosen = rng.integers(0, count, count)
        ratios[draw] = numerator[chosen].sum() / denominator[chosen].sum()
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def _row(run: Path) -> dict[str, Any]:
    metrics, provenance = _read_json(run / "metrics.json"), _read_json(run / "provenance.json")
    for key in ("hit_rate", "tpot_s.mean"):
        if key not in metrics:
            raise UserError(f"{run / 'metrics.json'} lacks {key}: it was not written by `python -m sim run`")
    for key in ("policy", "cache", "label"):
        if key not in provenance:
            raise UserError(f"{run / 'provenance.json'} lacks {key}: it was not written by `python -m sim run`")
    capacity = provenance["cache"].get("effective_fraction")
    if capacity is None:
        raise UserError(f"{run / 'provenance.json'} lacks cache.effective_fraction, the axis of every figure")
    row: dict[str, Any] = {key: np.nan if value is None else value for key, value in metrics.items()}
    row |= {key: provenance.get(key) for key in (*_SETTINGS, "policy", "trace_hash", "label")}
    row["trace"] = Path(str(row["trace"])).name
    row |= {"folder": str(run), "capacity": float(capacity), "estimated": tuple(provenance.get("estimated") or ())}
    return row | _intervals(run)


def _intervals(run: Path) -> dict[str, float]:
    """Intervals of the hit rate (all steps) and of the time per output token (mean over requests).

    Requests that were decoded in lockstep share their steps: they are drawn together, as one block.
    """
    steps = _read_table(run / "steps.parquet", ("group", "hits", "demanded"))
    requests = _read_table(run / "requests.parquet", ("group",))
    sums = steps.groupby("group")[["hits", "demanded"]].sum().to_numpy(dtype=np.float64)  # [blocks, 2]
    tpot = np.empty((0, 2))
    if "tpot_s" in requests:  # a replay without a clock has no times
        known = requests.dropna(subset="tpot_s").groupby("group")["tpot_s"]
        tpot = np.stack([known.sum(), known.count()], axis=1).astype(np.float64)  # [blocks, 2]
    hit_low, hit_high = request_interval(sums[:, 0], sums[:, 1])
    tpot_low, tpot_high = request_interval(tpot[:, 0], tpot[:, 1])
    return {
        "hit_rate.low": hit_low,
        "hit_rate.high": hit_high,
        "tpot_s.low": tpot_low,
        "tpot_s.high": tpot_high,
        "requests": len(sums),
    }


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises a dozen kinds for missing, cut and foreign files
        raise UserError(f"{path} cannot be read: {error}") from error
    for name in columns:
        if name not in table:
            raise UserError(f"{path} lacks the column {name}: it was not written by `python -m sim run`")
    return table


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: its run did not finish, run it again or remove its folder") from error
    except ValueError as error:
        raise UserError(f"{path} is broken: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is broken: it must hold names and values")
    return content


def _overrides(run: Path) -> dict[str, str]:
    """What the command line of a run set, without what the table shows already."""
    path = run / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return {}
    words = [str(word).lstrip("+~") for word in OmegaConf.load(path)]
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    shown = {*_SETTINGS, *_CAPACITY, "policy"}
    return {key: value for key, value in pairs.items() if key not in shown and not key.startswith("hydra.")}


def _series_names(rows: list[dict[str, Any]], overrides: list[dict[str, str]]) -> list[str]:
    """The policy of each run, with every setting that is not the same in all of them."""
    settings = [{key: row[key] for key in _SETTINGS} | extra for row, extra in zip(rows, overrides, strict=True)]
    keys = dict.fromkeys(key for one in settings for key in one)
    varied = [key for key in keys if len({str(one.get(key)) for one in settings}) > 1]
    names = []
    for row, one in zip(rows, settings, strict=True):
        words = [f"{key.split('/')[-1]}={one[key]}" for key in varied if one.get(key) is not None]
        names.append(" ".join([str(row["policy"]), *words]))
    return names
