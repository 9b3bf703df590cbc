"""The table that `make test-faults` prints: faults, how often each was tried, and what was lost."""

from contextlib import contextmanager

import pytest

TRIES: dict[str, list[int]] = {}


@pytest.fixture
def fault():
    """Return a context manager that counts a try, and counts it as lost if its block raises."""

    @contextmanager
    def fault(name, tries=1):
        row = TRIES.setdefault(name, [0, 0])
        row[0] += tries
        row[1] += tries
        yield
        row[1] -= tries

    return fault


def table():
    """Return the lines of the table in Markdown."""
    rows = [f"| {name} | {tries} | {lost} |" for name, (tries, lost) in TRIES.items()]
    total = [sum(column) for column in zip(*TRIES.values(), strict=True)]
    head = ["| fault | tries | lost |", "|---|---|---|"]
    return [*head, *rows, f"| **all** | {total[0]} | {total[1]} |"]
