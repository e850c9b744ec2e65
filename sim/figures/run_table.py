"""The table that figures of runs are drawn from."""

from pathlib import Path

import pandas as pd

from sim.figures.drawing import MissingData
from sim.figures.measures import add_measures
from sim.figures.run_settings import add_settings
from sim.results.run_files import finished_runs, is_system
from sim.results.table import collect, table_of


def study(folder: Path, of_machines: bool = True) -> pd.DataFrame:
    """`sim.results.table.collect` with the settings of every run and measures of its decode steps with intervals.

    `of_machines`: whether intervals hold the uncertainty of the machine, too.

    Runs of systems of several devices have other metrics and are left out. Raises: MissingData where there are no
    others, UserError as `collect`.
    """
    runs = finished_runs(folder) if folder.is_dir() else []
    replays = [run for run in runs if not is_system(run)]
    if runs and not replays:
        raise MissingData(f"{folder} holds runs of system=... only: python -m sim report {folder} shows them")
    table = (
        collect(folder, of_machines=of_machines)
        if len(replays) == len(runs)
        else table_of(folder, replays, of_machines=of_machines)
    )
    return add_measures(add_settings(table), of_machines)
