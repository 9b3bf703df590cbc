"""Test LocalFiles: pictures are small, and their number is limited, with fewer old ones."""

import io

import numpy as np
import pytest
from helpers import tiny_runs
from mmengine.config import Config
from PIL import Image

from xtra_toolkit.visualization.local_files import LocalFiles, jpeg, surplus

PICTURE = np.zeros((8, 12, 3), dtype=np.uint8)


def thinned(steps, most):
    """Return the steps that are left if pictures are added one by one."""
    kept = []
    for step in steps:
        kept.append(step)
        kept = sorted(set(kept) - set(surplus(kept, most)))
    return kept


def test_few_pictures_of_a_long_run_are_kept_most_of_them_new():
    kept = thinned(range(1000, 512_001, 1000), 48)
    gaps = np.diff(kept) // 1000
    assert len(kept) == 48 and kept[0] == 1000 and kept[-1] == 512_000
    assert gaps[-8:].max() <= 2 and gaps[:8].min() >= 16
    ages = (kept[-1] - np.array(kept[:-1])) / 1000
    assert (gaps <= np.maximum(2, 0.4 * ages)).all()  # no gap is too large


def start(folder, time, resume):
    local = LocalFiles(str(folder / time / "vis_data"), pictures=5)
    local.add_config(Config(dict(resume=resume)))
    local.add_scalar("loss", 1.0)
    return local


def kept(folder, pattern="*"):
    found = folder.glob(f"{pattern}/vis_data/vis_image/a_[0-9]*")
    return sorted(int(path.stem.split("_")[-1]) for path in found)


def test_a_resumed_run_keeps_the_limit_and_leaves_other_runs_alone(tmp_path):
    steps = range(1, 31)
    other = start(tmp_path, "20240101_000000", False)
    for step in steps[:4]:
        other.add_image("a", PICTURE, step)
    first = start(tmp_path, "20250101_000000", False)
    for step in steps[:12]:
        first.add_image("a", PICTURE, step)
        first.add_image("a_b", PICTURE, step)  # another name
    (tmp_path / "20250102_000000" / "vis_data").mkdir(parents=True)  # a test, which does not train
    (tmp_path / "20250102_000000" / "vis_data" / "config.py").write_text("resume = False\n")
    second = start(tmp_path, "20250103_000000", True)
    for step in steps[9:]:  # two are drawn again
        second.add_image("a", PICTURE, step)
    left = sorted(set(kept(tmp_path, "2025*")))
    assert len(left) == 5 and left[0] == 1 and left[-2:] == [29, 30] and max(left[1:3]) < 28
    assert kept(tmp_path, "2024*") == [1, 2, 3, 4]
    assert len(list(tmp_path.glob("2025*/vis_data/vis_image/a_b_*.jpg"))) == 5


def test_a_new_run_in_the_folder_thins_only_its_own_pictures(tmp_path):
    first = start(tmp_path, "20250101_000000", False)
    anew = start(tmp_path, "20250102_000000", False)
    for local in (first, anew):
        for step in range(1, 6):
            local.add_image("a", PICTURE, step)
    assert len(kept(tmp_path)) == 10


def test_a_photograph_is_a_fifth_of_its_png_and_looks_the_same():
    datasets = pytest.importorskip("sklearn.datasets")
    image = datasets.load_sample_image("china.jpg")
    data, png = jpeg(image), io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    assert 5 * len(data) < png.tell()
    read = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert np.abs(read - image).mean() < 5


def test_fewer_than_three_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"pictures=2.* at least 3"):
        LocalFiles(str(tmp_path), pictures=2)


def test_a_run_writes_pictures(tmp_path):
    hook = dict(type="xtra_toolkit.ReconstructionHook", interval=2, images=1)
    tiny_runs.run(
        tmp_path,
        "XTRA",
        visualizer=dict(
            type="xtra_toolkit.Visualizer",
            vis_backends=dict(type="xtra_toolkit.LocalFiles", pictures=4),
        ),
        custom_hooks=[dict(type="xtra_toolkit.SafeResume"), hook],
    )
    names = [path.name for path in tmp_path.glob("*/vis_data/vis_image/*")]
    assert len(names) == 4 and {"reconstruction_2.jpg", "reconstruction_15.jpg"} < set(names)
