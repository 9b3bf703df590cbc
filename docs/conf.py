"""Build the pages and the API reference into a static site, with Sphinx (``make site``).

The source folder is the root of the repository, so that the links between README, the pages and the
plugins are the same there and on the site.
"""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import xtra_toolkit  # noqa: E402

project = "xtra_toolkit"
author = copyright = "The xtra_toolkit developers"
release = xtra_toolkit.__version__

root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "docs/api/*.rst", "plugins/**.md", "tests/golden/*.md"]
exclude_patterns = [".*", "build", "work_dirs", "xtra_toolkit", "mmconfigs", "docs/api/modules.rst"]
html_theme = "furo"
html_title = f"{project} {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_heading_anchors = 3
apidoc_modules = [dict(path="../xtra_toolkit", destination="docs/api")]
apidoc_module_first = True
apidoc_automodule_options = ["members", "show-inheritance"]
apidoc_exclude_patterns = ["../xtra_toolkit/templates"]
autodoc_member_order = "bysource"
autodoc_default_options = {"special-members": "__call__", "ignore-module-all": True}
autodoc_typehints = "description"
autodoc_preserve_defaults = True

CONTENTS = {  # for each page with sub-pages, the captions and pages of the list on the left
    "README": {
        "Learn": ["docs/photos", "docs/concepts", "docs/guide", "docs/objectives", "docs/methods"],
        "Use": [
            "docs/pretrain",
            "docs/evaluate",
            "docs/checkpoints",
            "docs/monitor",
            "docs/cluster",
            "docs/speed",
        ],
        "Extend": [
            "docs/plugins",
            "plugins/README",
            "CONTRIBUTING",
            "API reference <docs/api/xtra_toolkit>",
        ],
        "Check": [
            "docs/verification",
            "docs/audit",
            "docs/differences",
            "docs/compare",
            "tests/golden/README",
        ],
        "Project": ["CHANGELOG", "SECURITY"],
    },
    "docs/compare": {"Comparisons": ["comparisons/*"]},
    "plugins/README": {"Plugins": ["*/README"]},
}


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Add a table of contents to a page; in the file itself, GitHub would show it as text."""
    for caption, pages in CONTENTS.get(name, {}).items():
        lines = [
            "",
            "```{toctree}",
            ":hidden:",
            ":glob:",
            f":caption: {caption}",
            *pages,
            "```",
            "",
        ]
        source[0] += "\n".join(lines)


def add_index(app: Sphinx, error: Exception | None) -> None:
    """Write the index.html that a server looks for."""
    page = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
    (Path(app.outdir) / "index.html").write_text(page)


def escape(app: Sphinx, what: str, name: str, obj: object, options: dict, lines: list[str]) -> None:
    """Escape a lone ``*`` and a last ``_``, which are no markup in docstrings: (*size, 3), add_."""
    if what == "attribute":
        lines.insert(0, "")  # or napoleon takes what stands before a colon for a type
    for i, line in enumerate(lines):
        parts = re.split(r"(``.+?``|`[^`]+`_*)", line)  # code and links stay
        for j in range(0, len(parts), 2):
            parts[j] = re.sub(r"(\w)_(?!\w)", r"\1\_", parts[j])
            if parts[j].count("*") % 2:
                parts[j] = parts[j].replace("*", r"\*")
        lines[i] = "".join(parts)


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_index)
