"""Test folders of images, and files that are no images."""

import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS
from PIL import Image

from xtra_toolkit.data import ImageFolder, LoadImage

PIPELINE = [
    dict(type="xtra_toolkit.LoadImage"),
    dict(type="RandomResizedCrop", scale=8),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackInputs"),
]


def write(path, size=(24, 16), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(len(str(path))).randint(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.png", "a/deep/1.JPG", "0.webp", "a/notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            write(tmp_path / name)
    return tmp_path


def names(dataset, folder):
    paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    return [path.removeprefix(f"{folder}/") for path in paths]


def test_images_are_found_at_any_depth_in_the_order_of_their_paths(folder):
    dataset = DATASETS.build(dict(type="xtra_toolkit.ImageFolder", data_root=str(folder)))
    assert names(dataset, folder) == ["0.webp", "a/deep/1.JPG", "b/2.png"]
    assert "gt_label" not in dataset[0]


def test_sub_folders_can_be_classes(folder):
    dataset = ImageFolder(str(folder), with_label=True)
    assert dataset.metainfo["classes"] == ("a", "b")
    assert [dataset[i]["gt_label"] for i in range(2)] == [0, 1]


def test_a_key_decides_the_crop_and_keeps_the_index(folder):
    dataset = ImageFolder(str(folder), pipeline=PIPELINE)
    one, again, later = dataset[7, 0, 2], dataset[7, 0, 2], dataset[7, 1, 2]
    assert one["inputs"].shape == (3, 8, 8)
    assert torch.equal(one["inputs"], again["inputs"])
    assert not torch.equal(one["inputs"], later["inputs"])
    assert one["data_samples"].sample_idx == later["data_samples"].sample_idx == 2
    assert dataset[2]["data_samples"].sample_idx == 2


@pytest.mark.parametrize("with_label", [False, True])
@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_without_images_is_reported(tmp_path, name, with_label):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"No images in|There is no folder") as caught:
        ImageFolder(str(tmp_path / name), with_label=with_label)
    assert str(tmp_path / name) in str(caught.value)
    assert (".bmp, .jpeg, .jpg, .pgm, .png" in str(caught.value)) == (name == "empty")
    assert "train_dataloader.dataset.data_root=" in str(caught.value)


def read(path):
    return LoadImage()({"img_path": str(path)})


def test_pixels_are_bgr_as_with_mmcv(tmp_path):
    pixels = write(tmp_path / "x.png")
    assert np.array_equal(read(tmp_path / "x.png")["img"], pixels[..., ::-1])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_mode_becomes_three_channels(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (5, 4)).save(path)
    loaded = read(path)
    assert loaded["img"].shape == (4, 5, 3) and loaded["img"].dtype == np.uint8
    assert loaded["ori_shape"] == (4, 5)


def test_the_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    write(tmp_path / "x.jpg", size=(24, 16), exif=exif)
    assert read(tmp_path / "x.jpg")["img_shape"] == (24, 16)


def test_a_truncated_jpeg_is_reported_by_its_name(tmp_path):
    path = tmp_path / "half.jpg"
    write(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"half\.jpg': OSError: image file is truncated"):
        read(path)
    dataset = ImageFolder(str(tmp_path), pipeline=PIPELINE)
    with pytest.raises(ValueError, match=r"half\.jpg': OSError: image file is truncated"):
        dataset[7, 0, 0]


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_no_image_is_reported_by_its_name(tmp_path, content):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot read the image .*bad\.png.*: \w+"):
        read(path)
