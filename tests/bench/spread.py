"""Hold a figure that was measured several times: a row of --json, a cell of a table."""

from collections.abc import Sequence
from statistics import median


def row(what: str, values: Sequence[float], unit: str) -> dict:
    return dict(what=what, median=median(values), min=min(values), max=max(values), unit=unit)


def cell(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}..{max(values):.2f})"
