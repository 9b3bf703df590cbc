"""README and the pages of docs/, as the tests read them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def block(page: Path, beginning: str, language: str = "python") -> str:
    """Return the one code block of a page that contains these words."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", page.read_text(), re.DOTALL)
    (found,) = [text for kind, text in blocks if kind == language and beginning in text]
    return found


def expand(name: str) -> list[str]:
    """Expand the braces of a file name, as a shell does: a_{b,c}.py to a_b.py and a_c.py."""
    braces = re.search(r"\{([^{}]*)\}", name)
    if braces is None:
        return [name]
    before, after = name[: braces.start()], name[braces.end() :]
    return [full for part in braces[1].split(",") for full in expand(before + part + after)]


def commands(text: str) -> list[list[str]]:
    """Return the words of each ``xtra`` command in the code of a page, in blocks and in lines."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(xtra [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [line.split("#")[0].split() for line in [*lines, *inline]]
    return [words[1:] for words in found if words[:1] == ["xtra"] and len(words) > 1]
