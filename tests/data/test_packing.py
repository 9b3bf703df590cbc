import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmpretrain.datasets.transforms import PackInputs as MMPretrains
from PIL import Image
from torch.utils.data import DataLoader

from xtra_toolkit.data import LoadImage, PackInputs, channels_last_collate


def images():
    rng = np.random.default_rng(0)
    upright = [rng.integers(0, 255, (12, 16, 3), dtype=np.uint8) for _ in range(3)]
    return [*upright, upright[0][::-1], upright[1][:, ::-1]]  # strides that torch does not take


def packed(transform):
    return [transform(dict(img=img, img_path=str(i))) for i, img in enumerate(images())]


def test_a_batch_equals_that_of_mmpretrain_except_for_its_layout():
    mine = channels_last_collate(packed(PackInputs()))
    theirs = default_collate(packed(MMPretrains()))
    assert torch.equal(mine["inputs"], theirs["inputs"])
    assert mine["inputs"].is_contiguous(memory_format=torch.channels_last)
    assert [s.img_path for s in mine["data_samples"]] == list("01234")


def test_packing_copies_no_pixels():
    img = images()[0]
    assert PackInputs()(dict(img=img))["inputs"].data_ptr() == img.ctypes.data


def test_the_layout_survives_a_worker_and_channel_first_images_are_accepted():
    samples = packed(PackInputs())
    loader = DataLoader(samples, 5, num_workers=1, collate_fn=channels_last_collate)
    batch = next(iter(loader))["inputs"]
    assert batch.is_contiguous(memory_format=torch.channels_last)
    planes = channels_last_collate(packed(MMPretrains()))["inputs"]
    assert torch.equal(planes, batch)


def test_a_grey_image_has_one_channel():
    grey = PackInputs()(dict(img=np.arange(12, dtype=np.uint8).reshape(3, 4)))["inputs"]
    assert grey.tolist() == [np.arange(12).reshape(3, 4).tolist()]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
@pytest.mark.parametrize("color_type", ["grayscale", "color"])
@pytest.mark.parametrize("pack", [PackInputs, MMPretrains])
def test_packed_images_are_writable(pack, color_type, shape, tmp_path):
    """NumPy's array over Pillow's memory is read-only, and torch warns of it."""
    Image.fromarray(np.full(shape, 7, dtype=np.uint8)).save(tmp_path / "x.png")
    loaded = LoadImage(color_type)(dict(img_path=str(tmp_path / "x.png")))
    inputs = pack()(loaded)["inputs"]
    inputs += 1
    assert (inputs == 8).all()
