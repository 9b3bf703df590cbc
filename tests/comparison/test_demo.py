"""The demo: the draw of labels, its tables and its plot."""

import numpy as np
import pytest
from click.testing import CliRunner

from xtra_toolkit.cli import main
from xtra_toolkit.comparison import demo
from xtra_toolkit.data import PackedImages

ACCURACIES = {
    demo.TRAINED: [[60.0, 62.0], [80.0, 82.0], [90.0, 91.0]],
    demo.SCRATCH: [[40.0, 45.0], [81.0, 83.0], [92.0, 93.0]],
    demo.RAW: [[88.0, 89.0], [93.0, 94.0], [95.0, 95.0]],
}


def test_a_draw_has_so_many_labels_of_each_class_and_seeds_differ():
    labels = np.arange(300) % 10
    first, again, other = (demo.draw_labelled(labels, 7, seed) for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 70
    assert (np.bincount(labels[first]) == 7).all()


def test_the_table_says_where_pretraining_wins_and_where_it_does_not():
    assert demo.verdict(ACCURACIES, demo.SCRATCH) == (
        "Pretraining against from scratch: ahead at 10 labels a class and behind at 100 labels "
        "a class (+18.5, -1.0, -2.0 points)."
    )
    probed = {name: (50.0, 40.0) for name in ACCURACIES}
    lines = demo.table(ACCURACIES, probed).splitlines()
    assert lines[2] == "| 10 | 61.0 (60.0 to 62.0) | 42.5 (40.0 to 45.0) | 88.5 (88.0 to 89.0) |"
    assert "behind at 10, 30, 100 labels" in lines[-1]


def test_the_plot_is_saved(tmp_path):
    demo.plot(ACCURACIES, tmp_path / "few_labels.png")
    assert (tmp_path / "few_labels.png").stat().st_size > 10_000


def test_the_digits_are_packed_once_with_their_labels(tmp_path):
    packed = demo.pack_digits(tmp_path)
    assert [len(PackedImages(str(packed), split)) for split in ("train", "test")] == [1297, 500]
    before = (packed / "train_images.npy").stat().st_mtime_ns
    assert (demo.pack_digits(tmp_path) / "train_images.npy").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    done = CliRunner().invoke(main, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "Logging error" not in done.output
    assert "| labels a class | pretrained | from scratch | raw pixels |" in done.output
    assert (tmp_path / "few_labels.png").exists()
