"""The generated documents are those of the code."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_matrix_of_objectives_is_current():
    spec = importlib.util.spec_from_file_location("make_docs", DOCS / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert (DOCS / "objectives.md").read_text() == make.matrix(), "run `make docs`"
