"""The table that figures of runs are drawn from."""

from pathlib import Path

import pandas as pd

from sim.figures.measures import add_measures
from sim.figures.settings import add_settings
from sim.results import collect


def study(folder: Path) -> pd.DataFrame:
    """`sim.results.collect` with the settings of every run and measures of its decode steps with intervals."""
    return add_measures(add_settings(collect(folder)))
