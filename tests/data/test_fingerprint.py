"""Test that a data set is identified by the names of its images, in their order."""

import shutil

import pytest
from helpers import photographs

from xtra_toolkit.data import Digits, ImageFolder
from xtra_toolkit.data.fingerprint import fingerprint, refuse_other_order


@pytest.fixture
def photos(tmp_path):
    return photographs.write(tmp_path / "photos", 6)


def listed(folder, names):
    (folder / "index.txt").write_text("".join(f"{name}\n" for name in names))
    return fingerprint(ImageFolder(str(folder), ann_file="index.txt"))


def names(folder):
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".png")]
    return [str(path.relative_to(folder)) for path in paths]


def test_the_fingerprint_depends_on_the_images_and_not_on_the_folder(photos, tmp_path):
    before = fingerprint(ImageFolder(str(photos)))
    assert before.startswith("6 images with the digest ")
    assert before == fingerprint(ImageFolder(f"{photos}/"))
    moved = tmp_path / "elsewhere" / "pictures"
    shutil.copytree(photos, moved)
    assert fingerprint(ImageFolder(str(moved))) == before
    first = moved / names(moved)[0]
    first.rename(first.with_name("zz_last" + first.suffix))  # as many, in another order
    after = fingerprint(ImageFolder(str(moved)))
    assert after.startswith("6 images ") and after != before


def test_the_fingerprint_of_a_list_is_that_of_its_lines(photos):
    found = names(photos)
    before = listed(photos, found)
    assert before == listed(photos, found)
    assert before != listed(photos, [*found[1:], found[0]])
    assert before != listed(photos, found[:-1])


def test_images_without_names_are_counted(photos):
    assert fingerprint(Digits("train", indices=44)) == "44 images"


def test_another_order_is_refused_and_the_difference_named():
    order = dict(images="6 images with the digest ab", global_batch=8)
    refuse_other_order(order, dict(order))
    refuse_other_order(None, order)  # a checkpoint of an earlier version
    with pytest.raises(ValueError, match=r"on 6 images .* here are 7 images in global .* of 8"):
        refuse_other_order(order, dict(order, images="7 images"))
