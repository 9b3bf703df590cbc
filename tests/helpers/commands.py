"""Run the command ``xtra`` in the process of the test."""

from typing import Any

from click.testing import CliRunner, Result

from xtra_toolkit.cli import main


def xtra(*args: object, columns: int = 80) -> Result:
    """Run ``xtra ARGS`` on a terminal of some width; return its exit code and its output."""
    return CliRunner().invoke(main, [str(a) for a in args], env={"COLUMNS": str(columns)})


def words(result: Any) -> str:
    """Return the output of a command without its line breaks."""
    return " ".join(result.output.split())
