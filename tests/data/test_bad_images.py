"""Test training on a folder of every kind of file: bad files are replaced, counted and listed."""

import builtins
import functools
import io
import json
import pickle
import subprocess
import sys
import uuid
import zlib

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import EpsImagePlugin, Image
from torch import nn
from torch._utils import ExceptionWrapper

from xtra_toolkit.data import ImageFolder, LoadImage, RandomResizedCrop, ReadImage
from xtra_toolkit.data.image_reading import decoding, pillow
from xtra_toolkit.data.image_reading.pillow import MAX_PIXELS
from xtra_toolkit.data.transforms.loading import UnreadableImage, unreadable
from xtra_toolkit.evaluation import LoadSegMap
from xtra_toolkit.hooks import SkipBadImages

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (124, 117, 104)
STEPS = [
    dict(type="xtra_toolkit.ReadImage"),
    dict(type="xtra_toolkit.RandomResizedCrop", scale=8),
    dict(type="mmpretrain.PackInputs"),
]


def image(size=(60, 40), seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (*size[::-1], 3), np.uint8))


def encoded(img, kind, **options):
    file = io.BytesIO()
    img.save(file, kind, **options)
    return file.getvalue()


def animated(kind):
    frames = [Image.new("RGB", (12, 8), colour) for colour in (RED, BLUE)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def palette(transparency):
    """Make an image whose left half is red and transparent, and whose right half is blue."""
    img = Image.new("P", (12, 8), 1)
    img.putpalette([*RED, *BLUE])
    img.paste(0, (0, 0, 6, 8))
    return encoded(img, "PNG", transparency=transparency)


def sixteen(kind, dtype=np.uint16):
    """Make an image of 16 bits from black to white."""
    ramp = np.linspace(0, 0xFFFF, 256).astype(dtype)
    return encoded(Image.fromarray(np.tile(ramp, (8, 1))), kind)


def turned():
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    img = Image.new("RGB", (64, 32), BLUE)
    img.paste(RED, (0, 0, 32, 32))
    return encoded(img, "JPEG", exif=exif, quality=95)


@functools.cache
def panorama():
    return encoded(Image.linear_gradient("L").resize((20_000, 2_000)), "JPEG")


def read(tmp_path, data, load=None):
    (tmp_path / "x.img").write_bytes(data)
    return (load or LoadImage())(dict(img_path=str(tmp_path / "x.img")))["img"][..., ::-1]


# ---- Kinds that are read--------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32), ("PPM", np.int32)],
)
def test_16_bit_images_keep_their_grey_levels(tmp_path, kind, dtype):
    """Pillow would turn all levels from 256 on into white."""
    img = read(tmp_path, sixteen(kind, dtype))
    assert np.array_equal(img[0], np.arange(256)[:, None].repeat(3, 1))


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_colours_under_transparent_pixels_are_replaced_by_the_background(tmp_path, transparency):
    img = read(tmp_path, palette(transparency))
    assert img[0, 0].tolist() == list(GREY) and img[0, -1].tolist() == list(BLUE)


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (*RED, 0)), ("LA", (255, 0))])
def test_colours_of_pixels_with_zero_alpha_are_replaced_by_the_background(tmp_path, mode, colour):
    data = encoded(Image.new(mode, (4, 4), colour), "PNG")
    assert read(tmp_path, data)[0, 0].tolist() == list(GREY)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_taken(tmp_path, kind):
    img = read(tmp_path, animated(kind))
    assert img.shape == (8, 12, 3) and np.abs(img.astype(int) - RED).max() <= 1


def test_cmyk_is_converted(tmp_path):
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert np.abs(read(tmp_path, data).astype(int) - RED).max() <= 2


def test_the_exif_orientation_is_applied(tmp_path):
    img = read(tmp_path, turned()).astype(int)
    assert img.shape == (64, 32, 3)
    assert np.abs(img[4, 16] - RED).max() < 9 and np.abs(img[60, 16] - BLUE).max() < 9


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_may_be_one_pixel_wide(size, kind):
    crop, img = RandomResizedCrop(8), Image.new("RGB", size, BLUE)
    found = crop(dict(img_bytes=encoded(img, kind), img_path=""))["img"]
    assert found.shape == (8, 8, 3) and np.abs(found[..., ::-1].astype(int) - BLUE).max() < 3


def test_float_pixels_are_refused(tmp_path):
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(UnreadableImage, match=r"pixels of the mode F, from 1\.0 to 1\.0"):
        read(tmp_path, data)


# ---- Refused before it is decoded ---------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_size_above_the_option_is_refused_from_the_header(tmp_path, monkeypatch, kind, fast):
    if not fast:
        monkeypatch.setattr(decoding, "simplejpeg", None)
    data = encoded(image((50, 40)), kind)[:-300]  # decoding it would raise another error
    path = tmp_path / "x.img"
    path.write_bytes(data)
    sentence = (
        r"x\.img': ValueError: 50 x 40 are 2,000 pixels, and max_pixels is 1,999: a pixel takes"
    )
    for steps in ([LoadImage(max_pixels=1999)], [ReadImage(), RandomResizedCrop(8, 1999)]):
        with pytest.raises(UnreadableImage, match=sentence):
            functools.reduce(lambda results, step: step(results), steps, dict(img_path=str(path)))
    with pytest.raises(UnreadableImage, match="truncated"):
        LoadImage(max_pixels=2000)(dict(img_path=str(path)))
    whole = dict(img_bytes=encoded(image((50, 40)), kind), img_path="x.img")
    with pytest.raises(UnreadableImage, match=sentence.removeprefix(r"x\.img")):
        RandomResizedCrop(8, 1999)(whole)


def huge(width, height):
    """Make a PNG that claims a size and holds no pixels."""
    data = bytearray(encoded(image((1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_max_pixels_replaces_the_limit_of_pillow(tmp_path):
    with pytest.raises(UnreadableImage, match=r"180,018,000 pixels, and max_pixels is 100,000,000"):
        read(tmp_path, huge(10_001, 18_000))
    with pytest.raises(UnreadableImage, match=r"truncated|incomplete"):
        read(tmp_path, huge(10_001, 18_000), LoadImage(max_pixels=190_000_000))
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def test_the_largest_image_takes_a_gigabyte_to_decode():
    """Measure a quarter of the pixels; the peak is that of a separate process (Linux)."""
    side = int(MAX_PIXELS**0.5) // 2
    code = (
        "import importlib.util, io, re, sys\n"
        "spec = importlib.util.spec_from_file_location('pillow', sys.argv[1])\n"
        "spec.loader.exec_module(pillow := importlib.util.module_from_spec(spec))\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "print(pillow.decode(sys.stdin.buffer.read()).shape, 1024 * (peak() - before))"
    )
    for mode in ("RGB", "P"):
        data = encoded(
            Image.new(mode, (side, side)), "PNG", **(dict(transparency=0) if mode == "P" else {})
        )
        command = [sys.executable, "-c", code, pillow.__file__]
        printed = subprocess.run(command, input=data, capture_output=True, check=True).stdout
        assert f"({side}, {side}, 3)".encode() in printed
        assert int(printed.split()[-1]) < 1e9 / 4, printed


def test_a_large_image_equals_its_strips(monkeypatch):
    """Convert turned, transparent and 16-bit images a few rows at a time and at once."""
    for make in (lambda: sixteen("PNG"), lambda: palette(bytes([0, 128])), turned, panorama):
        whole = pillow.decode(make())
        with monkeypatch.context() as patch:
            patch.setattr(pillow, "STRIP", 3 * whole.shape[1])
            assert np.array_equal(pillow.decode(make()), whole)
            grey = pillow.decode(make(), flag="grayscale")
        assert np.array_equal(pillow.decode(make(), flag="grayscale"), grey)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "FITS"])
def test_other_formats_of_pillow_are_refused(tmp_path, monkeypatch, kind):
    """Pillow would hand EPS to Ghostscript, whatever the file's name is."""
    called = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **more: called.append(args))
    made = {
        "EPS": lambda: encoded(image((50, 40)), "EPS"),
        "PDF": lambda: encoded(image((50, 40)), "PDF"),
        "FITS": lambda: b"SIMPLE  =                    T".ljust(80).ljust(2880),
    }
    (tmp_path / "photo.jpg").write_bytes(made[kind]())
    results = dict(img_path=str(tmp_path / "photo.jpg"))
    with pytest.raises(UnreadableImage, match="no image of the kinds BMP"):
        LoadImage()(results)
    (tmp_path / "map.png").write_bytes(made[kind]())
    with pytest.raises(ValueError, match="no image of the kinds PNG"):
        LoadSegMap()(dict(seg_map_path=str(tmp_path / "map.png")))
    assert not called


# ---- In the place of a bad image ----------------------------------------------------------------

GOOD = {
    "cmyk.jpg": lambda: encoded(image().convert("CMYK"), "JPEG"),
    "sixteen.png": lambda: sixteen("PNG"),
    "palette.png": lambda: palette(bytes([0, 128])),
    "turned.jpg": turned,
    "narrow.png": lambda: encoded(image((1, 50)), "PNG"),
    "low.jpg": lambda: encoded(image((50, 1)), "JPEG"),
    "animated.png": lambda: animated("PNG"),
    "animated.webp": lambda: animated("WEBP"),
    "gif.png": lambda: animated("GIF"),
    "panorama.jpg": panorama,
    "grey.jpg": lambda: encoded(image().convert("L"), "JPEG"),
}
CAUSES = {
    "bad_truncated.jpg": (lambda: encoded(image(), "JPEG")[:-400], "image file is truncated"),
    "bad_head.jpg": (lambda: encoded(image(), "JPEG")[:30], "Truncated File Read"),
    "bad_empty.jpg": (bytes, "the file is empty"),
    "bad_text.jpg": (lambda: b"<html>404</html>", "no image of the kinds BMP, GIF, JPEG"),
    "bad_cut.png": (lambda: encoded(image(), "PNG")[:-900], "truncated"),
    "bad_huge.png": (lambda: huge(20_000, 20_000), "400,000,000 pixels, and max_pixels is"),
    "bad_closed.jpg": (lambda: encoded(image(), "JPEG"), "PermissionError: [Errno 13]"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write a file of each kind, and so many photographs that bad files are few."""
    files = GOOD | {name: make for name, (make, _) in CAUSES.items()}
    files |= {f"{i:02}.jpg": lambda i=i: encoded(image(seed=i), "JPEG") for i in range(14)}
    place = tmp_path / "images"
    place.mkdir()
    for name, make in files.items():
        (place / name).write_bytes(make())
    opened = builtins.open

    def closed(file, *args, **kwargs):
        if str(file).endswith("bad_closed.jpg"):
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", closed)
    return place


class Toy(BaseModel):
    def __init__(self):
        super().__init__(data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"))
        self.layer, self.seen = nn.Linear(1, 1), []

    def forward(self, inputs, data_samples, mode="tensor"):
        self.seen += [sample.img_path for sample in data_samples]
        return {"loss": self.layer(inputs.float().mean()[None, None]).square().mean()}


def build(folder, work_dir, epochs=1, batch_size=4, workers=2, hook=None, **options):
    hook = dict(type="xtra_toolkit.SkipBadImages", **(hook or {}))
    return Runner(
        model=Toy(),
        work_dir=str(work_dir),
        default_scope="mmpretrain",
        train_dataloader=dict(
            dataset=ImageFolder(str(folder), pipeline=STEPS, **options),
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=dict(type="mmengine.default_collate"),
        ),
        train_cfg=dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=epochs, global_batch=8),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1e-9)),
        default_hooks=dict(bad_images=hook),
        randomness=dict(seed=3),
        experiment_name=uuid.uuid4().hex,
        log_level="ERROR",
    )


def listed(work_dir):
    lines = map(json.loads, (work_dir / "bad_images.jsonl").read_text().splitlines())
    return [(line["path"].rpartition("/")[2], line["cause"]) for line in lines]


def test_training_goes_on_and_bad_images_are_counted_and_listed(folder, tmp_path):
    runner = build(folder, tmp_path / "run", hook=dict(max_share=0.3))
    runner.train()
    found = listed(tmp_path / "run")
    assert sorted(name for name, _ in found) == sorted(CAUSES)  # 32 files, 4 steps of 8
    assert [cause for name, cause in found if CAUSES[name][1] not in cause] == []
    assert len(runner.model.seen) == 32
    names = {path.rpartition("/")[2] for path in runner.model.seen}
    assert not any("bad_" in name for name in names) and names >= GOOD.keys()
    (hook,) = (hook for hook in runner.hooks if type(hook).__name__ == "SkipBadImages")
    assert hook.tried == 32 + hook.bad and hook.bad >= len(CAUSES)


def test_workers_batches_and_a_resumed_run_use_the_same_replacements(folder, tmp_path):
    """The list of a folder that is used again names no file twice."""
    runs = [build(folder, tmp_path / "run", hook=dict(max_share=0.3)) for _ in range(2)]
    runs.append(build(folder, tmp_path / "other", 1, 8, 0, hook=dict(max_share=0.3)))
    for runner in runs:
        runner.train()
    assert runs[0].model.seen == runs[1].model.seen == runs[2].model.seen
    assert len(listed(tmp_path / "run")) == len(CAUSES)


def test_a_replacement_depends_only_on_the_key(folder, monkeypatch):
    dataset = ImageFolder(str(folder), pipeline=STEPS)
    dataset.skips_bad = True
    paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    index = next(i for i, path in enumerate(paths) if path.endswith("bad_truncated.jpg"))
    keys = [(seed, epoch, index, 5) for seed in (0, 1) for epoch in range(6)]
    before = [dataset[key] for key in keys]
    assert len({sample["data_samples"].img_path for sample in before}) > 4
    monkeypatch.setattr(decoding, "simplejpeg", None)  # fails before the box is drawn
    for key, sample in zip(keys, before, strict=True):
        again = dataset[key]
        assert again["data_samples"].img_path == sample["data_samples"].img_path
        assert again["data_samples"].draw_seed == sample["data_samples"].draw_seed
        assert sample["data_samples"].skipped_images[0][0] == paths[index]


def test_a_replacement_has_a_new_crop(folder):
    """The crop is not the one that the image has at its own place in the epoch."""
    dataset = ImageFolder(str(folder), pipeline=STEPS)
    dataset.skips_bad = True
    photographs = 0
    for key in ((0, epoch, index) for epoch in range(3) for index in range(len(dataset))):
        sample = dataset[key]
        at = sample["data_samples"].sample_idx
        if at != key[-1] and "/images/0" in sample["data_samples"].img_path:
            photographs += 1
            assert not torch.equal(dataset[(*key[:2], at)]["inputs"], sample["inputs"])
    assert photographs


def test_readable_images_are_cropped_as_without_the_hook(folder):
    skips, plain = (ImageFolder(str(folder), pipeline=STEPS) for _ in range(2))
    skips.skips_bad = True
    assert torch.equal(skips[0, 1, 2]["inputs"], plain[0, 1, 2]["inputs"])
    assert "skipped_images" not in skips[0, 1, 2]["data_samples"]


def test_a_larger_share_of_bad_images_stops_the_run_with_a_message(folder, tmp_path):
    runner = build(folder, tmp_path / "run", workers=0, hook=dict(max_share=0.05, at_least=3))
    with pytest.raises(ValueError, match=r"3 of \d+ images cannot be read, .*max_share is 5\.0%"):
        runner.train()
    assert len(listed(tmp_path / "run")) == 3


def test_a_folder_of_bad_images_stops_the_run(folder, tmp_path):
    for path in folder.iterdir():
        if "bad_" not in path.name:
            path.unlink()
    for i in range(9):
        (folder / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"20 images in a row cannot be read\. The last: Cannot"):
        build(folder, tmp_path / "run", workers=0).train()


def test_the_error_can_be_pickled_by_a_worker():
    try:
        raise unreadable("gone.jpg", OSError("no such file"))
    except UnreadableImage:
        handed = pickle.loads(pickle.dumps(ExceptionWrapper(where="in a worker")))
    with pytest.raises(UnreadableImage, match=r"gone\.jpg': OSError: no such file"):
        handed.reraise()


def test_without_the_hook_the_first_bad_image_stops_the_run(folder, tmp_path):
    dataset = ImageFolder(str(folder), pipeline=STEPS)
    with pytest.raises(UnreadableImage, match="Cannot read the image"):
        [dataset[0, 0, i] for i in range(len(dataset))]


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match="max_share=5 was given; it is a share"):
        SkipBadImages(max_share=5)
