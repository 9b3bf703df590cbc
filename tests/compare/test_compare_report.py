"""The table of ``make compare``: intervals, and XTRA's own row as what others stand beside."""

import csv
import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "mmconfigs" / "compare" / "report.py"
SPEC = importlib.util.spec_from_file_location("compare_report", PATH)
report = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(report)

HEAD = [
    "objective",
    "attention",
    "seed",
    "rate",
    "images",
    "epochs",
    "seconds",
    "linear",
    "attentive",
]
ROWS = [
    ("raw pixels", "", "", "", 0, 0, 0, 85.0, ""),
    ("xtra", "own mask", 0, 0.001, 30016, 0.5, 60, 72.0, 70.0),  # of a sweep, one seed
    ("xtra", "own mask", 0, 0.002, 30016, 0.5, 60, 80.0, 78.0),
    ("xtra", "own mask", 1, 0.002, 30016, 0.5, 120, 81.0, 79.0),
    ("aim", "own mask", 0, 0.002, 30016, 0.5, 60, 75.0, 79.5),
    ("mae", "full", 0, 0.002, 30016, 0.5, 60, 90.0, 78.5),
]


@pytest.fixture
def table(tmp_path):
    with open(tmp_path / "results.csv", "w", newline="") as file:
        csv.writer(file).writerows([HEAD, *ROWS])
    lines = report.table(report.groups(tmp_path)).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_an_interval_is_the_spread_and_the_error_of_10000_images():
    mean, low, high = report.interval([80.0, 81.0])
    half = 196 * (0.805 * 0.195 / 10_000) ** 0.5
    assert (mean, low, high) == pytest.approx((80.5, 80 - half, 81 + half))


def test_others_stand_beside_the_xtra_of_most_seeds(table):
    verdicts = {(row[0], row[3]): (row[8], row[10]) for row in table}
    assert verdicts["aim", "0.002"] == ("below XTRA", "within noise of XTRA")
    assert verdicts["mae", "0.002"] == ("above XTRA", "within noise of XTRA")
    assert verdicts["xtra", "0.002"] == ("", "")
    assert verdicts["raw pixels", ""] == ("above XTRA", "")


def test_a_label_names_what_tells_rows_apart():
    assert report.label("mae", "full", "0.002", "30016") == "mae, full, lr 0.002, 30,016 images"
    assert report.label("raw pixels", "", "", "0") == "raw pixels"


def test_an_interval_is_drawn_no_longer_than_it_is(tmp_path):
    group = dict(rows=[], linear=(80.0, 79.0, 81.0), attentive=None)
    report.plot({("xtra", "full", "0.002", "30016"): group}, tmp_path / "plot.png")
    bar = report.plt.gcf().axes[0].lines[0]
    assert list(bar.get_xdata()) == [79, 81] and bar.get_solid_capstyle() == "butt"


def test_seeds_make_one_row(table):
    (row,) = [row for row in table if row[0] == "xtra" and row[3] == "0.002"]
    assert row[2] == "2" and row[6] == "1.5" and row[7].startswith("80.5 (")
