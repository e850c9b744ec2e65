"""Running an importer as the command does, for tests."""

import argparse

import pytest

from traces.errors import UserError
from traces.format.validation import validate
from traces.importers import load_importer


def imported(name, source, *arguments):
    """What an importer reads, checked as writing would check it."""
    importer = load_importer(name)
    parser = argparse.ArgumentParser()
    importer.add_options(parser)
    trace = importer.read(source, parser.parse_args(arguments))
    validate(trace)
    return trace


def refused(sentence, name, source, *arguments):
    with pytest.raises(UserError) as caught:
        imported(name, source, *arguments)
    assert sentence in str(caught.value)
    assert not str(caught.value).endswith(".") and "\n" not in str(caught.value)
