"""The map of where a policy pays: its cells by hand, its marks, and what a wrong file says."""

import pandas as pd
import pytest

from sim.commands import plot
from sim.figures.drawing import MAP, MissingData
from sim.figures.drawings.where_it_pays import FILE, changes, place_of, read_map, where_it_pays
from sim.figures.registry import sources_of
from sim.figures.style import said_of
from tests.support.tables import footnote_of
from traces.errors import UserError

PLACES = [(x, y) for x in (0.5, 1.0) for y in (0.0, 1e-3)]


def cells(**others):
    """Two machines' figures at two values each; ours is 20 % slower at the first place and 50 % faster elsewhere."""
    rows = [
        {"batch_size": batch, "setup": setup, "x": x, "y": y, "policy": "ours", "tpot_s": 1.2 if place == 0 else 0.5,
         "rival": "theirs", "rival_tpot_s": 1.0, "x_axis": "cpu_ratio", "y_axis": "host_s", "against": "the best",
         "mark": None}
        for batch in (1, 3) for setup in ("S1", "S2") for place, (x, y) in enumerate(PLACES)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**others)


def test_a_cell_is_the_mean_of_the_changes_of_the_set_ups():
    """+20 % at 1 s and, in another set-up, -50 % at 100 s: -15 %, not what their sum says."""
    table = cells()
    table = table[(table["batch_size"] == 1) & (table["x"] == 0.5) & (table["y"] == 0.0)].copy()
    table["tpot_s"], table["rival_tpot_s"] = [1.2, 50.0], [1.0, 100.0]
    assert changes(table).to_numpy().item() == pytest.approx(-0.15)


def test_cells_lie_where_their_values_are():
    grid = changes(cells())
    assert grid.loc[0.0, 0.5] == pytest.approx(0.2) and grid.loc[1e-3, 0.5] == pytest.approx(-0.5)


def test_the_figure_says_every_number_and_the_conclusion():
    mark = pd.DataFrame([{"mark": "S1", "x": 0.75, "y": 5e-4}])
    figure = where_it_pays(pd.concat([cells(), mark], ignore_index=True))
    panels = figure.get_axes()
    assert [panel.get_title(loc="left") for panel in panels] == ["batch\u00a01", "batch\u00a03"]
    words = [text.get_text() for text in panels[0].texts]
    assert words.count("-50\u00a0%") == 3 and words.count("+20\u00a0%") == 1 and "S1" in words
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["0", "1"]  # ms
    assert "ms per layer" in panels[0].get_ylabel() and "copy" in panels[0].get_xlabel()
    assert panels[0].lines[0].get_xydata().tolist() == [[0.5, 0.5]]
    note, says = footnote_of(figure), said_of(figure).conclusion
    assert "SIMULATED" in note and "theirs (16)" in note
    assert says.startswith("ours against the best") and "faster at 3 of 4 machines" in says


def test_blue_is_faster_and_white_is_equal():
    panel = where_it_pays(cells()).get_axes()[0]
    image = panel.images[0]
    red, _, blue, _ = image.cmap(image.norm(-0.3))
    assert blue > red and image.cmap(image.norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.01)


def test_places_between_values_and_beyond():
    values = pd.Index([0.0, 1.0, 3.0])
    assert [place_of(value, values) for value in (0.5, 2.0, 9.0)] == [0.5, 1.5, 2.0]


def test_plot_draws_it_from_the_folder(tmp_path):
    cells().to_csv(tmp_path / FILE, index=False)
    assert sources_of(tmp_path) == sources_of(tmp_path / FILE) == (MAP,)
    assert plot.main([str(tmp_path), "figure=where_it_pays", f"out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "where_it_pays.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (cells().drop(columns="rival"), "lacks the column rival"),
        (cells(tpot_s=0.0), "above 0"),
        (cells(x=-1.0), "not negative"),
        (cells(x="fast"), "not negative"),
        (cells().iloc[:15], "one row for each pair of x and y"),
        (pd.concat([cells(), cells()]), "one row for each pair of x and y"),
    ],
)
def test_wrong_files_end_in_one_sentence(tmp_path, table, words):
    table.to_csv(tmp_path / FILE, index=False)
    with pytest.raises(UserError, match=words):
        read_map(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(MissingData, match="holds no where_it_pays"):
        read_map(tmp_path)
