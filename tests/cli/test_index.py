"""Test ``xtra index``: data sets read its list as they would read the folder, without a search."""

import functools
import os
import pickle

import numpy as np
import pytest
from helpers import commands
from PIL import Image

from xtra_toolkit.data import ImageFolder
from xtra_toolkit.data.datasets import mmap_lines as lines

NAMES = ["b/2 of 3.png", "a/deep/1.JPG", "a/ü.png", "a/Z.png", "b/0.png", "a/notes.txt"]
STEPS = [
    dict(type="xtra_toolkit.ReadImage"),
    dict(type="xtra_toolkit.RandomResizedCrop", scale=8),
    dict(type="mmpretrain.PackInputs"),
]


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(NAMES):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            noise = np.random.RandomState(i).randint(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(noise).save(path)
    return tmp_path / "images"


xtra = functools.partial(commands.xtra, "index")


def infos(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


@pytest.mark.parametrize("with_label", [False, True])
def test_a_list_gives_the_images_of_the_folder_in_their_order(folder, with_label):
    result = xtra(folder, *["--with-label"] * with_label)
    assert result.exit_code == 0, result.output
    assert f"{folder}/index.txt: 5 images" in result.output
    assert ("of 2 classes" in result.output) == with_label
    given = dict(data_root=str(folder), with_label=with_label, pipeline=STEPS)
    looked, listed = ImageFolder(**given), ImageFolder(**given, ann_file="index.txt")
    assert infos(listed) == infos(looked) and len(listed) == 5
    sample, same = looked[3, 1, 2]["inputs"], listed[3, 1, 2]["inputs"]
    assert (sample == same).all()


def test_the_folder_is_not_searched_if_there_is_a_list(folder, monkeypatch):
    xtra(folder)
    for name in ("scandir", "listdir", "walk"):
        monkeypatch.setattr(os, name, None)
    assert len(ImageFolder(str(folder), ann_file="index.txt")) == 5
    with pytest.raises(TypeError):
        ImageFolder(str(folder))


def test_the_list_is_mapped_into_memory_and_not_read(folder):
    xtra(folder)
    dataset = ImageFolder(str(folder), ann_file="index.txt")
    assert isinstance(dataset.data_bytes, np.memmap) and dataset.data_list == []
    assert dataset.data_address.nbytes == 8 * 5
    assert infos(pickle.loads(pickle.dumps(dataset))) == infos(dataset)  # as for spawned workers


def test_a_data_set_can_take_a_part_of_a_list(folder):
    xtra(folder)
    whole = infos(ImageFolder(str(folder), ann_file="index.txt"))
    paths = [info["img_path"] for info in whole]
    for chosen, expected in ((2, paths[:2]), (-2, paths[-2:]), ([3, 0], [paths[3], paths[0]])):
        part = ImageFolder(str(folder), ann_file="index.txt", indices=chosen)
        assert [info["img_path"] for info in infos(part)] == expected
    last = ImageFolder(str(folder), ann_file="index.txt").get_data_info(-1)
    assert last == whole[-1]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n\n"])
@pytest.mark.parametrize("block", [1, 4, 1 << 20])
def test_any_line_ending_is_accepted(tmp_path, monkeypatch, end, block):
    monkeypatch.setattr(lines, "BLOCK", block)
    between = end if end.strip("\n") else "\n"
    text = between.join(["a.png", "b c.png", "d.png"]) + end
    (tmp_path / "x.txt").write_bytes(text.encode())
    data = ImageFolder(str(tmp_path), ann_file="x.txt")
    assert [i["img_path"] for i in infos(data)] == [
        f"{tmp_path}/{name}" for name in ("a.png", "b c.png", "d.png")
    ]


def test_file_names_that_are_not_utf8_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", tmp_path / name)
    assert xtra(tmp_path).exit_code == 0
    (info,) = infos(ImageFolder(str(tmp_path), ann_file="index.txt"))
    assert os.path.exists(info["img_path"])


def test_an_existing_list_is_kept_without_force(folder):
    (folder / "index.txt").write_text("mine\n")
    result = xtra(folder)
    assert result.exit_code == 2 and "overwrite it with --force" in result.output
    assert (folder / "index.txt").read_text() == "mine\n"
    assert xtra(folder, "--out", folder / "other.txt").exit_code == 0
    assert xtra(folder, "--force").exit_code == 0
    assert (folder / "index.txt").read_text() == (folder / "other.txt").read_text()
    assert "there is no folder" in xtra(folder, "--out", folder / "no" / "x.txt").output


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    result = xtra(tmp_path / "empty")
    assert result.exit_code == 1 and "No images in" in result.output
    Image.new("RGB", (2, 2)).save(tmp_path / "empty" / "a\nb.png")
    result = xtra(tmp_path / "empty")
    assert result.exit_code == 1 and "1 file names contain a line break" in result.output
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["a\nb.png"]


@pytest.mark.parametrize("content", [None, ""])
def test_an_absent_or_empty_list_is_reported(tmp_path, content):
    if content is not None:
        (tmp_path / "index.txt").write_text(content)
    with pytest.raises(ValueError, match=r"index\.txt.*Write one with xtra index FOLDER"):
        ImageFolder(str(tmp_path), ann_file="index.txt")


def test_a_line_without_a_label_is_reported(folder):
    xtra(folder)
    data = ImageFolder(str(folder), ann_file="index.txt", with_label=True)
    with pytest.raises(ValueError, match=r"Line 1 of .*index\.txt' ends in .*--with-label"):
        data.get_data_info(0)


@pytest.mark.parametrize("links", [{"b/up": "..", "a/more": "."}, {"a/knot": "knot"}])
@pytest.mark.parametrize("with_label", [False, True])
def test_a_link_to_a_folder_above_it_is_refused(folder, links, with_label):
    """MMPretrain would follow two such links 2 to the power of 40 times."""
    for name, leads_to in links.items():
        (folder / name).symlink_to(leads_to)
    result = xtra(folder, *["--with-label"] * with_label)
    assert result.exit_code == 1 and "Remove the link" in result.output
    assert any(str(folder / name) in result.output for name in links)
    with pytest.raises(ValueError, match="leads back to where it lies"):
        ImageFolder(str(folder), with_label=with_label)


def test_other_links_are_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "a" / "Z.png").rename(tmp_path / "elsewhere" / "Z.png")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    (folder / "d").symlink_to(folder / "a")
    (folder / "gone.png").symlink_to("nowhere")
    names = [
        info["img_path"].removeprefix(f"{folder}/") for info in infos(ImageFolder(str(folder)))
    ]
    assert {"c/Z.png", "d/deep/1.JPG", "d/ü.png"} <= set(names) and len(names) == 7
