"""Test that the fast crop is Pillow's bicubic filter in MMPretrain's boxes, for every decoder."""

import functools
import io

import cv2
import numpy as np
import pytest
import torch
from mmpretrain.datasets.transforms import RandomResizedCrop as MMPretrains
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from xtra_toolkit.data import LoadImage, RandomFlip, RandomResizedCrop, ReadImage
from xtra_toolkit.data import seeding as seeded
from xtra_toolkit.data.image_reading import decoding
from xtra_toolkit.data.image_reading.decoding import Jpeg
from xtra_toolkit.data.image_reading.resampling import resize
from xtra_toolkit.data.transforms.crop import MIN_OVERSAMPLING

BICUBIC = Image.Resampling.BICUBIC
SIZE = (256, 256)
PHOTOGRAPHS = [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea()]


def jpeg(pixels, **options):
    file = io.BytesIO()
    options = dict(quality=90, subsampling="4:2:0") | options
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def small(pixels, size=(500, 375)):
    return np.array(Image.fromarray(pixels).resize(size, BICUBIC))


def mosaic(pixels):
    """Return 2000×1500 pixels whose detail is as fine as that of the photograph."""
    pixels = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    pixels = np.concatenate([pixels, pixels[::-1]])
    return np.tile(pixels, (4, 4, 1))[:1500, :2000]


def pillows(pixels, box, size=SIZE):
    top, left, height, width = box
    crop = Image.fromarray(pixels[top : top + height, left : left + width])
    return np.asarray(crop.resize(size[::-1], BICUBIC))


def cv2s(pixels, box, size=SIZE):
    """Resize by OpenCV's cubic filter without a prefilter, which the checks must refuse."""
    top, left, height, width = box
    crop = pixels[top : top + height, left : left + width]
    return cv2.resize(crop, size[::-1], interpolation=cv2.INTER_CUBIC)


def draw(crop, key, shape):
    with seeded.seeded(*key):
        return crop._draw(shape)


def cropped(crop, file, key):
    with seeded.seeded(*key):
        return crop(dict(img_bytes=file, img_path="x.jpg"))


def difference(one, other):
    return np.abs(one.astype(float) - other).mean()


def near(differences):
    return np.mean(differences) <= 2 and max(differences) <= 3


# ---- Photographs, from the file to the crop -----------------------------------------------------


def differences(make, resample, crop_range=(0.3, 1.0), boxes=3):
    """Return the grey levels between ``resample(file, box, key)`` and Pillow, for each crop."""
    crop, found = RandomResizedCrop(256, crop_ratio_range=crop_range), []
    for index, photograph in enumerate(PHOTOGRAPHS):
        file = jpeg(make(photograph))
        pixels = np.asarray(Image.open(io.BytesIO(file)))
        for key in ((0, epoch, index) for epoch in range(boxes)):
            box = draw(crop, key, pixels.shape[:2])
            found.append(difference(pillows(pixels, box), resample(crop, file, key, box)))
    return found


def ours(crop, file, key, box):
    return cropped(crop, file, key)["img"][..., ::-1]


def cubic(crop, file, key, box):
    return cv2s(np.asarray(Image.open(io.BytesIO(file))), box)


@pytest.mark.parametrize("make", [small, mosaic])
def test_photographs_are_cropped_as_by_pillow(make):
    assert near(differences(make, ours))


@pytest.mark.parametrize("make", [small, mosaic])
def test_the_cubic_filter_of_opencv_fails_the_same_check(make):
    assert not near(differences(make, cubic))


def test_large_photographs_are_decoded_at_a_reduced_scale():
    """The test above therefore covers reduced scales."""
    crop, file = (
        RandomResizedCrop(256, crop_ratio_range=(0.3, 1.0)),
        Jpeg.of(jpeg(mosaic(PHOTOGRAPHS[0]))),
    )
    factors = [crop._factor(draw(crop, (0, epoch, 0), file.shape)) for epoch in range(20)]
    assert set(factors) == {1, 2} and factors.count(2) >= 8
    assert (
        crop._factor((0, 0, round(256 * MIN_OVERSAMPLING * 8), round(256 * MIN_OVERSAMPLING * 8)))
        == 8
    )
    assert crop._factor((0, 0, 500, 375)) == 1
    assert file.decode(4).shape == (375, 500, 3)


def test_without_simplejpeg_the_crop_is_the_same(monkeypatch):
    crop, files = RandomResizedCrop(64), [jpeg(small(p)) for p in PHOTOGRAPHS]
    fast = [cropped(crop, file, (0, 0, i))["img"] for i, file in enumerate(files)]
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert Jpeg.of(files[0]) is None
    plain = [cropped(crop, file, (0, 0, i))["img"] for i, file in enumerate(files)]
    assert near([difference(*pair) for pair in zip(fast, plain, strict=True)])
    assert not all(np.array_equal(*pair) for pair in zip(fast, plain, strict=True))


# ---- A zone plate: rings finer towards the rim, up to the finest that pixels can hold -----------


def zone_plate(side):
    y, x = np.mgrid[:side, :side] - side / 2
    rings = 127.5 + 127.5 * np.cos(np.pi / side * (x**2 + y**2))
    return np.repeat(rings.round().astype(np.uint8)[..., None], 3, 2)


def energy(reduced, side):
    """Return the variance where the rings are too fine for the reduced image."""
    size = len(reduced)
    y, x = np.mgrid[:size, :size] - size / 2
    finer = np.hypot(x, y) / (size / 2) > size / side  # the local frequency in cycles a pixel, × 2
    return reduced[..., 0][finer].astype(float).var()


def energies(times):
    """Return the energies of our crop, of Pillow and of OpenCV, and the factor of our decoder."""
    side = int(256 * times)
    file = jpeg(zone_plate(side), quality=100)
    crop = RandomResizedCrop(256, crop_ratio_range=(1.0, 1.0), aspect_ratio_range=(1.0, 1.0))
    pixels, box = np.asarray(Image.open(io.BytesIO(file))), (0, 0, side, side)
    assert draw(crop, (0, 0, 0), (side, side)) == box
    images = cropped(crop, file, (0, 0, 0))["img"], pillows(pixels, box), cv2s(pixels, box)
    return *(energy(img, side) for img in images), crop._factor(box)


@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_zone_plate_has_as_little_energy_above_nyquist_as_by_pillow(times):
    mine, pillow, opencv, factor = energies(times)
    assert mine == pytest.approx(pillow, rel=0.1)
    assert opencv != pytest.approx(pillow, rel=0.1)
    assert factor == 1


@pytest.mark.parametrize(("times", "factor"), [(4.5, 2), (6, 2), (9, 4)])
def test_a_reduced_scale_adds_little_energy_above_nyquist(times, factor):
    """libjpeg's scaling is no ideal filter, but adds far less than OpenCV's filter lets through."""
    mine, pillow, opencv, found = energies(times)
    assert found == factor
    assert 0.9 * pillow < mine < 1.3 * pillow
    assert mine < 0.02 * opencv


# ---- The two resamplings ------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 375, 500), (30, 41, 200, 333), (5, 6, 100, 90)])
def test_a_box_between_pixels_is_resampled_by_the_same_filter(box):
    """Resize boxes of whole pixels that are given as floats, both reducing and enlarging."""
    pixels = small(PHOTOGRAPHS[0])
    whole, between = resize(pixels, box, SIZE), resize(pixels, tuple(map(float, box)), SIZE)
    assert np.abs(whole.astype(int) - between).max() <= 2  # it rounds once, the others twice
    assert difference(whole, between) < 0.5
    assert np.abs(whole.astype(int) - pillows(pixels, box)).max() <= 1


def test_a_box_between_pixels_is_at_its_place():
    """A ramp keeps positions: the means of crop and result are the middle of the box."""
    ramp = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (40, 100, 3))
    out = resize(ramp, (0.5, 20.25, 30.0, 40.5), (16, 16))
    assert out.shape == (16, 16, 3) and out.dtype == np.uint8
    assert out.mean() == pytest.approx(2 * (20.25 + 40.5 / 2 - 0.5), abs=0.2)
    assert np.ptp(out, axis=0).max() == 0


# ---- Draws, order, files ------------------------------------------------------------------------


def test_boxes_and_flips_are_those_of_mmpretrain():
    options = dict(scale=8, crop_ratio_range=(0.2, 1.0), aspect_ratio_range=(0.5, 2.0))
    mine, theirs = RandomResizedCrop(**options), MMPretrains(**options)
    flip, their_flip = RandomFlip(0.5), TRANSFORMS.build(dict(type="RandomFlip", prob=0.5))
    img, seen = np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3), set()
    for epoch in range(30):
        with seeded.seeded(0, epoch, 1):
            expected = theirs.rand_crop_params(img), their_flip(dict(img=img, img_shape=(60, 90)))
        with seeded.seeded(0, epoch, 1):
            found = mine._draw((60, 90)), flip(dict(img=img))
        assert found[0] == expected[0]
        assert np.array_equal(found[1]["img"], expected[1]["img"])
        assert found[1]["flip"] == expected[1]["flip"]
        assert found[1]["flip_direction"] == expected[1]["flip_direction"]
        seen.add(found[1]["flip"])
    assert seen == {True, False}


def test_the_model_gets_uint8_in_bgr(tmp_path):
    Image.new("RGB", (90, 60), (250, 120, 10)).save(tmp_path / "x.png")
    steps = [ReadImage(), RandomResizedCrop((32, 48)), RandomFlip(1.0)]
    steps.append(TRANSFORMS.build(dict(type="PackInputs")))
    results = dict(img_path=str(tmp_path / "x.png"))
    for step in steps:
        results = step(results)
    assert results["inputs"].dtype == torch.uint8 and results["inputs"].is_contiguous()
    assert results["inputs"].shape == (3, 32, 48)
    assert results["inputs"].flatten(1).unique(dim=1).flatten().tolist() == [10, 120, 250]
    sample = results["data_samples"]
    assert sample.ori_shape == (60, 90) and sample.img_shape == (32, 48) and sample.flip


def test_an_image_in_memory_is_cropped():
    img = PHOTOGRAPHS[0][::-1, :, ::-1]  # strides that torch does not take
    crop = RandomResizedCrop(32)
    with seeded.seeded(0, 0, 0):
        results = crop(dict(img=img))
    expected = pillows(img, draw(crop, (0, 0, 0), img.shape[:2]), (32, 32))
    assert np.abs(results["img"].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [1, 2])
def test_the_exif_orientation_is_applied_to_the_crop(tmp_path, orientation, factor):
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    file = jpeg(small(PHOTOGRAPHS[0]), exif=exif)
    (tmp_path / "x.jpg").write_bytes(file)
    loaded = LoadImage()(dict(img_path=str(tmp_path / "x.jpg")))["img"]
    found = Jpeg.of(file)
    assert found.shape == loaded.shape[:2]
    assert difference(found.decode(), loaded) < 2
    side = int(min(loaded.shape[:2]) / (factor * MIN_OVERSAMPLING))
    crop = RandomResizedCrop(side, crop_ratio_range=(1.0, 1.0), aspect_ratio_range=(0.1, 10))
    box = (0, 0, *loaded.shape[:2])
    crop.rand_crop_params = lambda img: box
    assert crop._factor(box) == factor
    assert difference(cropped(crop, file, (0, 0, 0))["img"], pillows(loaded, box, (side, side))) < 1


@pytest.mark.parametrize("bottom", [1, 16, 200, 374, 375])
@pytest.mark.parametrize("options", [{}, dict(progressive=True), dict(subsampling="4:4:4")])
def test_skipping_rows_changes_no_other_row(bottom, options):
    file = Jpeg.of(jpeg(small(PHOTOGRAPHS[0]), **options))
    for factor in (1, 2):
        rows = bottom // factor
        assert np.array_equal(file.decode(factor, bottom)[:rows], file.decode(factor)[:rows])
    assert (len(file.decode(1, bottom)) == bottom) == (
        "progressive" not in options or bottom == 375
    )


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGBA", "P", "I;16", "1"])
def test_other_files_are_decoded_by_pillow(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode in ("CMYK", "L") else "x.png")
    img = Image.fromarray(small(PHOTOGRAPHS[0]))
    grey = np.asarray(img.convert("L"))
    img = Image.fromarray(grey.astype(np.uint16) * 200) if mode == "I;16" else img.convert(mode)
    img.save(path)
    crop, results = RandomResizedCrop(64), ReadImage()(dict(img_path=str(path)))
    with seeded.seeded(0, 0, 0):
        found = crop(results)["img"]
    loaded = LoadImage()(dict(img_path=str(path)))["img"]
    expected = pillows(loaded, draw(crop, (0, 0, 0), loaded.shape[:2]), (64, 64))
    assert found.dtype == np.uint8 and difference(found, expected) < 2
    assert (Jpeg.of(path.read_bytes()) is None) == (mode != "L")


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 30, 600, 5000, -400, -2])
def test_a_truncated_or_empty_file_is_reported_by_its_name(tmp_path, monkeypatch, kept, absent):
    if absent:
        monkeypatch.setattr(decoding, "simplejpeg", None)
    path = tmp_path / "half.jpg"
    path.write_bytes(jpeg(small(PHOTOGRAPHS[0]))[:kept])
    for steps in ((LoadImage(),), (ReadImage(), RandomResizedCrop(8))):
        with pytest.raises(ValueError, match=r"Cannot read the image .*half\.jpg': \w+: .*Replace"):
            functools.reduce(lambda results, step: step(results), steps, dict(img_path=str(path)))


def test_an_absent_file_is_reported_by_its_name(tmp_path):
    with pytest.raises(ValueError, match=r"Cannot read the image .*no\.jpg': FileNotFoundError"):
        ReadImage()(dict(img_path=str(tmp_path / "no.jpg")))
