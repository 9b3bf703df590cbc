"""Test the results of a comparison: intervals, sentences, and a page drawn from the file."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from mmengine.config import Config

from xtra_toolkit.cli import main
from xtra_toolkit.comparison.blocks import block_sentences, block_size
from xtra_toolkit.comparison.report import write_report
from xtra_toolkit.comparison.results import RANDOM, RAW, SCRATCH, Results, interval

ROOT = Path(__file__).parents[2]
SMALL, COMPARISONS = ROOT / "mmconfigs" / "small", ROOT / "docs" / "comparisons"
PLAN = dict(
    data="photos",
    seeds=2,
    images=dict(xtra=6400, mae=6400),
    labels=1000,
    tune_labels=[100],
    tune_epochs=5,
    tune_rate=1e-3,
)
ABOUT = dict(machine="a CPU", torch="2", commit="abc", command="xtra compare", tested=10_000)
RUNS = [
    (RAW, 0, dict(linear=40.0)),
    (RANDOM, 0, dict(linear=30.0)),
    ("mae", 0, dict(linear=39.5, minutes=2)),
    ("xtra", 0, dict(linear=44.0, attentive=45.0, tuned={"100": 50.0}, minutes=1)),
    ("xtra", 1, dict(linear=46.0, tuned={"100": 52.0}, minutes=2)),
    (f"{SCRATCH}, full attention", 0, dict(tuned={"100": 50.5})),
]


@pytest.fixture
def results(tmp_path):
    made = Results(tmp_path / "compare.json", plan=PLAN, **ABOUT)
    for name, seed, values in RUNS:
        made.record(name, seed, **values)
    return made


def test_an_interval_is_the_spread_and_the_error_of_the_test_images():
    half = 196 * (0.805 * 0.195 / 10_000) ** 0.5
    assert interval([80.0, 81.0], 10_000) == pytest.approx((80.5, 80 - half, 81 + half))


def test_a_row_is_an_objective_over_its_seeds_and_references_come_first(results):
    assert results.names() == [RAW, RANDOM, f"{SCRATCH}, full attention", "xtra", "mae"]
    rows = [line.split(" | ") for line in results.table().splitlines()]
    assert rows[5][:5] == ["| xtra", "2", "6,400", "", "2"] and rows[5][5].startswith("45.0 (43.0")
    assert rows[5][-1] == "51.0 (49.0 to 53.0) |"
    results.record("xtra", 2, linear=45.0)
    assert "| 51.0 (49.0 to 53.0), 2 seeds |" in results.table().splitlines()[5]
    results.state["mflops"] = dict(xtra=100)
    assert results.table().splitlines()[5].split(" | ")[3] == "1.9"  # 3 x 100 MFLOP x 6,400


def test_a_sentence_calls_overlapping_intervals_noise(results):
    assert results.sentences() == [
        "xtra, linear probe: 45.0 (43.0 to 47.0); above raw pixels, above random encoder.",
        "xtra, fine-tuned with 100 labels: 51.0 (49.0 to 53.0); within noise of from scratch, "
        "full attention.",
        "mae, linear probe: 39.5 (38.5 to 40.5); within noise of raw pixels, above random encoder.",
    ]


def test_block_sizes_are_compared_with_single_tokens(results, tmp_path):
    assert block_sentences(results) == []
    results.state["block_sizes"] = dict(mae=1, xtra=2)
    sentences = block_sentences(results)
    assert sentences == [
        "xtra, blocks of 2×2 tokens, linear probe: 45.0 (43.0 to 47.0); above single tokens, "
        "39.5 (38.5 to 40.5) (mae)."
    ]
    write_report(results, tmp_path / "compare")
    assert (tmp_path / "compare_blocks.png").stat().st_size > 5_000
    page = (tmp_path / "compare.md").read_text()
    assert sentences[0] in page and "(compare_blocks.png)" in page


@pytest.mark.parametrize(
    ("name", "size"),
    [("cifar10_aim", 1), ("cifar10_xtra", 2), ("cifar10_xtra_block4", 4), ("cifar10_mae", None)],
)
def test_a_token_causal_mask_has_blocks_of_one_token(name, size):
    assert block_size(Config.fromfile(SMALL / f"{name}.py")) == size


def test_the_page_names_the_commit_of_each_measurement(results):
    assert results.commits == "abc"
    results.state["commit"] = "def"
    results.record("mae", 1, linear=39.0)
    assert results.commits == "abc, def"


def test_results_are_read_again_and_drawn_without_training(results, tmp_path):
    again = Results(results.path)
    assert again.table() == results.table()
    titles = [title for title, _ in again.protocols()]
    assert titles == ["linear probe", "attentive probe", "fine-tuned, 100 labels"]
    done = CliRunner().invoke(main, ["compare", "--redraw", str(results.path)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "compare.md").read_text()
    assert results.table() in page and "3 of 4 pretraining runs are finished" in page
    assert (tmp_path / "compare.png").stat().st_size > 10_000


def test_the_docs_have_comparisons():
    assert len(list(COMPARISONS.glob("*.json"))) >= 2


@pytest.mark.parametrize("file", sorted(COMPARISONS.glob("*.json")), ids=lambda file: file.stem)
def test_a_page_in_the_docs_is_drawn_from_the_file_beside_it(file, tmp_path):
    shutil.copy(file, tmp_path)
    done = CliRunner().invoke(main, ["compare", "--redraw", str(tmp_path / file.name)])
    assert done.exit_code == 0, done.output
    page = file.with_suffix(".md")
    assert (tmp_path / page.name).read_text() == page.read_text()
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {path.name for path in (COMPARISONS / n for n in drawn) if path.exists()}


def test_configs_and_images_must_be_named():
    done = CliRunner().invoke(main, ["compare"])
    assert done.exit_code == 2 and "name at least one config" in done.output
