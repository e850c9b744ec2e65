"""Tables as `sim.figures.run_table.study` makes them, with invented results: every value is chosen, none computed."""

from typing import Any

import pandas as pd

from sim.figures.looks import add_looks
from sim.figures.run_settings import place_names

PLAIN = {
    "eviction": "lru", "prediction": "none", "prefetch": "none", "substitution": "none", "assignment": "link_only",
}  # fmt: skip


def run(contender: str = "lru", tpot_ms: float = 40.0, **changed: Any) -> dict[str, Any]:
    """One row: a run of 12 requests whose intervals reach 10 % to either side."""
    row = {
        "folder": "nowhere", "policy": contender.split(" ")[0], "contender": contender, "series": contender,
        "name": contender, "trace": "demo", "model": "small", "hardware": "s1", "setup": "s1", "workload": "demo",
        "batch_size": 1, "label": "SIMULATED", "estimated": (), "capacity": 0.25, "requests": 12,
        "tpot_s.mean": tpot_ms / 1e3, "itl_s.mean": tpot_ms / 1e3,
        "decode.hit_rate": 0.5, "decode.cache_ratio": 0.5, "decode.lost_gate_mass": 0.0,
    } | PLAIN | changed  # fmt: skip
    for name in ("tpot_s.mean", "itl_s.mean", "decode.hit_rate", "decode.cache_ratio", "decode.lost_gate_mass"):
        stem, value = name.removesuffix(".mean"), row[name]
        row |= {
            f"{stem}.low": row.get(f"{stem}.low", value * 0.9),
            f"{stem}.high": row.get(f"{stem}.high", value * 1.1),
        }
    return row


def study_of(*runs: dict[str, Any]) -> pd.DataFrame:
    """The runs as a table."""
    table = pd.DataFrame(runs)
    bound = table["eviction"].isin(["belady", "belady_admit"]) | table["policy"].isin(["all_resident", "on_demand"])
    return add_looks(table.assign(place=place_names(table), bound=bound))


def heights(panel: Any) -> list[list[float]]:
    """Heights of the bars of a panel, a list per series."""
    return [
        [round(float(bar.get_height()), 6) for bar in bars] for bars in panel.containers if hasattr(bars, "patches")
    ]


def widths(panel: Any) -> list[list[float]]:
    """Lengths of the horizontal bars of a panel, a list per series."""
    return [[round(float(bar.get_width()), 6) for bar in bars] for bars in panel.containers if hasattr(bars, "patches")]


def words(panel: Any) -> list[str]:
    """The texts in a panel."""
    return [text.get_text() for text in panel.texts]


def legend(figure: Any) -> list[str]:
    """The names in the legend over a figure."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def footnote_of(figure: Any) -> str:
    """The sentences under a figure."""
    return str(figure.texts[0].get_text()).replace("\n", " ")
