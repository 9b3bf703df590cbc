"""Test that the generated documents are current."""

import importlib.util
import subprocess
import sys

import pytest
from helpers.pages import DOCS, PAGES

from xtra_toolkit.masks import MaskFactory, UnitOrder
from xtra_toolkit.targets import Target


def test_the_matrix_of_objectives_is_current():
    spec = importlib.util.spec_from_file_location("make_docs", DOCS / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert (DOCS / "objectives.md").read_text() == make.matrix(), "run `make docs`"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", DOCS]
    done = subprocess.run(
        [*command, "-d", tmp_path / "doctrees", DOCS.parent, tmp_path / "site"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.name for path in (tmp_path / "site").rglob("*.html")}
    written = {page.with_suffix(".html").name for page in PAGES}
    assert written | {"index.html", "xtra_toolkit.objective.html"} <= pages


@pytest.mark.parametrize("contract", [MaskFactory, Target, UnitOrder])
def test_the_page_of_plugins_has_every_member_of_a_contract(contract):
    section = (DOCS / "plugins.md").read_text().split(f"### `{contract.__name__}`\n")[1]
    section = section.split("\n#")[0]
    names = [n for n in vars(contract) if not n.startswith("_") or n == "__call__"]
    assert len(names) > 2
    assert [n for n in names if f"`{n}`" not in section and f"`{n}(" not in section] == []
