"""What all importers share: names, descriptions, a missing source."""

import pytest

from tests.support.importing import imported
from traces.errors import UserError
from traces.importers import importer_names, load_importer


def test_every_format_says_what_it_reads():
    assert {"gpt_oss", "big_moe_on_edge", "mixtral_offloading", "routed_experts"} <= set(importer_names())
    for name in importer_names():
        importer = load_importer(name)
        assert importer.__doc__.partition("\n")[0].endswith(".")
        assert importer.EXAMPLE.startswith(f"{name} ")
    with pytest.raises(UserError, match="FORMAT=none: must be one of big_moe_on_edge"):
        load_importer("none")


@pytest.mark.parametrize("name", importer_names())
def test_a_missing_source_is_named(name, tmp_path):
    options = ["--num-experts", "8"] if name == "routed_experts" else []
    with pytest.raises(UserError, match="nowhere"):
        imported(name, tmp_path / "nowhere", *options)
