"""Print what a trace holds and the statistics that decide what a cache, a prefetch or a substitution can do.

    python -m sim info TRACE [--json]

TRACE is a trace file, or the name of an embedded trace such as `demo`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from sim.terminal import next_commands
from traces.embedded import trace_path
from traces.format.files import read_trace
from traces.statistics.summary import summarize, warnings
from traces.text import MOST_CHARACTERS, short_name

EXAMPLES = """examples:
  python -m sim info demo
  python -m sim info my.safetensors --json
"""
_WIDTH = 110


def main(argv: list[str]) -> int:
    """Print the summary of one trace as tables, or as JSON; 0 on success.

    Raises: UserError for a file that is no valid trace, or whose content is not what its hash says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sim info",
        description="Print what a trace holds and its statistics.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("trace", metavar="TRACE", help="trace file, or the name of an embedded trace")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args(argv)
    path = trace_path(options.trace)
    summary = summarize(read_trace(path))
    if options.json:
        print(json.dumps(summary | {"warnings": warnings(summary)}, indent=2, allow_nan=False))
    else:
        print(render(summary, path))
        print()
        recorded = [f"trace.path={options.trace}"] if path == Path(options.trace) else [f"trace={options.trace}"]
        sweep = ["run", "-m", *recorded, "policy=lru,belady", "cache.fraction=0.125,0.25,0.5"]
        print(next_commands(["plot", options.trace, "figure=routing,locality"], sweep))
    return 0


def render(summary: dict[str, Any], path: Path) -> str:
    """The summary as tables for people."""
    sections: list[tuple[str, list[tuple[str, ...]]]] = [
        (f"Trace {path.name}", _contents(summary, path)),
        ("Model", _geometry(summary["geometry"])),
        ("Provenance", _provenance(summary["provenance"])),
        ("Tensors", _tensors(summary["tensors"])),
        ("Requests by label", _labels(summary["labels"])),
        (f"Locality over {summary['statistics_over']}", _locality(summary["locality"])),
        (f"Gate, softmax(router_logits), over {summary['statistics_over']}", _gate(summary["gate"])),
        ("Lookahead of the next layer's gate", _lookahead(summary["lookahead"])),
        ("Similarity of experts' outputs", _similarity(summary["similarity"])),
        ("Note", [(sentence,) for sentence in warnings(summary)]),
    ]
    return "\n\n".join("\n".join([title, *_table(rows)]) for title, rows in sections if rows)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows with aligned columns, cut to the width of a screen."""
    rows = [tuple(short_name(cell, MOST_CHARACTERS) for cell in row) for row in rows]
    columns = max(map(len, rows))
    widths = [max((len(row[at]) for row in rows if at < len(row) - 1), default=0) for at in range(columns)]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return [line.rstrip() for line in lines]


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _rates(values: list[float | None] | None) -> tuple[str, ...]:
    return ("unknown",) if values is None else tuple(map(_rate, values))


def _size(count: float) -> str:
    return (
        f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count:.0f} bytes"
    )


def _contents(summary: dict[str, Any], path: Path) -> list[tuple[str, ...]]:
    return [
        ("size", _size(path.stat().st_size)),
        ("content hash", f"{summary['content_hash'][:16]} (checked)"),
        ("rows", f"{summary['prefill_rows']} prefill, {summary['decode_rows']} decode, {summary['requests']} requests"),
        ("ids", "best first" if summary["ranked"] else "in no order of merit"),
        ("score function", summary["score_function"] or "unknown"),
    ]


def _geometry(geometry: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("model", short_name(geometry["model"])),
        ("MoE layers", str(geometry["num_layers"])),
        ("experts", f"top-{geometry['top_k']} of {geometry['num_experts']} per layer"),
    ]
    rows += [(name, _per_layer(geometry[name])) for name in ("expert_bytes", "attention_bytes", "shared_bytes")]
    for name in ("other_bytes", "kv_bytes_per_token", "hidden_size", "weight_bits"):
        rows += [(name, "unknown" if geometry[name] is None else f"{geometry[name]:,}")]
    if geometry["expert_bytes"] is not None:
        rows.append(("all experts", _size(sum(geometry["expert_bytes"]) * geometry["num_experts"])))
    return rows


def _per_layer(sizes: list[int] | None) -> str:
    if sizes is None:
        return "unknown"
    least, most = min(sizes), max(sizes)
    return f"{least:,} in every layer" if least == most else f"{least:,} to {most:,} by layer"


def _provenance(provenance: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, value in provenance.items():
        entries = value if isinstance(value, list) and all(isinstance(entry, str) for entry in value) else [value]
        for at, entry in enumerate(entries):
            text = entry if isinstance(entry, str) else json.dumps(entry)
            rows.append(("" if at else name, text if name == "notes" else _cut(text)))
    return rows


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _tensors(tensors: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, tensor["dtype"], " x ".join(map(str, tensor["shape"])), _size(tensor["bytes"]))
        for name, tensor in tensors.items()
    ]


def _labels(labels: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [(short_name(label), str(count["requests"]), str(count["rows"])) for label, count in labels.items()]
    return [("label", "requests", "rows"), *rows] if rows else []


def _locality(locality: dict[str, Any]) -> list[tuple[str, ...]]:
    shares, entropies = locality["top_quarter_share_per_layer"], locality["entropy_per_layer"]
    return [
        ("uses that go to the top quarter of experts", *_spread(locality["top_quarter_share"], shares)),
        ("entropy of use (1 = uniform)", *_spread(locality["entropy"], entropies)),
        ("experts of a token in a layer, mean", f"{locality['experts_per_token']:.3f}"),
        ("reuse by the next token", _rate(locality["next_token_reuse"])),
        ("step-LRU capacity, share of experts", *(f"{fraction:g}" for fraction in locality["lru_capacity"])),
        ("  slots per layer", *map(str, locality["lru_slots"])),
        ("  hit rate, decode", *_rates(locality["lru_hit_rate_decode"])),
        ("  hit rate, with prefill", *_rates(locality["lru_hit_rate"])),
    ]


def _spread(mean: float, values: list[float]) -> tuple[str, ...]:
    return _rate(mean), f"[{min(values):.3f}, {max(values):.3f}] by layer"


def _gate(gate: dict[str, Any] | None) -> list[tuple[str, ...]]:
    if gate is None:
        return [("The trace has no router_logits: gate slope and score bands are unknown.",)]
    return [
        ("gate slope h", _rate(gate["gate_slope"])),
        ("alpha", *(f"{alpha:.2f}" for alpha in gate["alphas"])),
        ("low-score share of active experts", *_rates(gate["low_share"])),
        ("candidates per token and layer", *(f"{count:.2f}" for count in gate["candidates"])),
        (f"low share of LRU misses at {gate['miss_slots']} slots", *_rates(gate["low_share_of_misses"])),
    ]


def _similarity(similarity: dict[str, float] | None) -> list[tuple[str, ...]]:
    if similarity is None:
        return []
    mean, best = similarity["mean"], similarity["best_partner"]
    return [("mean cosine of two experts of a layer", _rate(mean), "with its most similar partner", _rate(best))]


def _lookahead(lookahead: dict[str, Any] | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, numbers in (lookahead or {}).items():
        rows += [
            (f"{name} layer l's MoE: recall of top-k", _rate(numbers["recall"])),
            ("  alpha", *(f"{alpha:.2f}" for alpha in numbers["alphas"])),
            ("  recall of top-score experts", *_rates(numbers["top_score_recall"])),
            ("  active share of predicted top-score", *_rates(numbers["top_score_precision"])),
        ]
    return rows
