"""Test that tar shards give what the folder gives: images, crops, labels, masks and steps."""

import builtins
import functools
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import webdataset
from helpers import commands, photographs
from helpers.processes import on_two
from helpers.tiny_runs import GLOBAL_BATCH, IMAGES, PIPELINE, run
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader

from xtra_toolkit.data import GlobalBatchSampler, ImageFolder, Shards
from xtra_toolkit.data.transforms.loading import UnreadableImage

CROPPED = [
    dict(type="xtra_toolkit.ReadImage"),
    dict(type="xtra_toolkit.RandomResizedCrop", scale=32),
    dict(type="xtra_toolkit.RandomFlip", prob=0.5),
    dict(type="mmpretrain.PackInputs"),
]
GREY = [dict(type="xtra_toolkit.LoadImage", color_type="grayscale"), *PIPELINE]
DDP = dict(
    launcher="pytorch",
    cfg=dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None)),
)


xtra = functools.partial(commands.xtra, "index")


def shard(samples, folder, **options):
    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/%03d.tar", verbose=0, **options) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photographs.write(tmp_path_factory.mktemp("photos"), IMAGES)


def samples(photos):
    """Return samples as the documentation writes them, in the order of the folder."""
    images = ImageFolder(str(photos), with_label=True)
    for info in map(images.get_data_info, range(len(images))):
        path = Path(info["img_path"])
        key = str(path.relative_to(photos).with_suffix(""))
        yield {"__key__": key, "jpg": path.read_bytes(), "cls": info["gt_label"]}


@pytest.fixture
def shards(photos, tmp_path):
    folder = shard(samples(photos), tmp_path / "shards", maxcount=12)  # a shard mixes classes
    result = xtra(folder, "--shards", "--with-label")
    assert result.exit_code == 0 and "index.txt: 44 images of 2 classes" in result.output
    return folder


def labelled(folder):
    return Shards(str(folder), with_label=True, pipeline=CROPPED)


def keys(start=0, epoch=1):
    sampler = GlobalBatchSampler(range(IMAGES), GLOBAL_BATCH, seed=3)
    sampler.set_epoch(epoch, start)
    return list(sampler)


def seen(dataset, chosen, workers=0):
    """Return the inputs, the label and the seed of the mask for each key."""
    loader = DataLoader(dataset, sampler=chosen, batch_size=None, num_workers=workers)
    found = [(sample["inputs"], sample["data_samples"]) for sample in loader]
    return [(x.numpy().tobytes(), s.gt_label.item(), s.draw_seed, s.step_seed) for x, s in found]


# ---- The same samples ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_images_of_the_folder(shards, photos, workers):
    folder = ImageFolder(str(photos), with_label=True, pipeline=CROPPED)
    expected = seen(folder, keys())
    assert seen(labelled(shards), keys(), workers) == expected
    assert len(set(expected)) == 40 and {label for _, label, *_ in expected} == {0, 1}


def test_shards_without_labels_are_built_from_a_config(shards, photos):
    xtra(shards, "--shards", "--out", shards / "plain.txt")
    config = dict(type="xtra_toolkit.Shards", data_root=str(shards), ann_file="plain.txt")
    dataset, infos = DATASETS.build(config), ImageFolder(str(photos), pipeline=[])
    assert len(dataset) == len(infos) == 44
    for i in (0, 13, 43, -1):
        sample, info = dataset[i], infos.get_data_info(i)
        assert sample["img_bytes"] == Path(info["img_path"]).read_bytes()
        assert sample["sample_idx"] == info["sample_idx"] and "gt_label" not in sample
        name = Path(info["img_path"]).relative_to(photos)
        assert sample["img_path"] == f"{shards}/{i % 44 // 12:03}.tar!{name}"


def test_the_samples_are_those_of_webdataset(shards):
    """The reader of webdataset gives them one after another."""
    files = sorted(map(str, shards.glob("*.tar")))
    streamed = webdataset.WebDataset(files, shardshuffle=False)
    ours = Shards(str(shards), with_label=True, pipeline=[])
    for sample, mine in zip(streamed, map(ours.__getitem__, range(44)), strict=True):
        assert mine["img_bytes"] == sample["jpg"] and mine["gt_label"] == int(sample["cls"])
        assert mine["img_path"].endswith(f"!{sample['__key__']}.jpg")


def test_shards_at_any_depth_with_unusual_names_are_read(tmp_path):
    """Names may be long or not ASCII, and other files may lie beside them, as in webdataset."""
    names = ["b", "a " * 90 + "/ü", "deep/folder!x@3+4.tar!y"]
    made = [{"__key__": name, "PNG": name.encode(), "json": {}} for name in names[:2]]
    made += [{"__key__": "no image", "json": {}}, {"__key__": names[2], "seg.webp": b"seg"}]
    shard(made[:1], tmp_path / "2 of 2")
    shard(made[1:], tmp_path / "1")
    assert "3 images" in xtra(tmp_path, "--shards").output
    dataset = Shards(str(tmp_path))
    assert [dataset[i]["img_bytes"] for i in range(3)] == [names[1].encode(), b"seg", b"b"]
    assert dataset[1]["img_path"] == f"{tmp_path}/1/000.tar!{names[2]}.seg.webp"


# ---- Nothing is read before its turn ------------------------------------------------------------


def opened(monkeypatch):
    """Record the shards that are opened from now on."""
    found, real = [], builtins.open

    def noting(file, *args, **options):
        found.extend([str(file)] if str(file).endswith(".tar") else [])
        return real(file, *args, **options)

    monkeypatch.setattr(builtins, "open", noting)
    return found


def test_starting_within_an_epoch_reads_no_earlier_image(shards, monkeypatch):
    whole = seen(labelled(shards), keys())
    found = opened(monkeypatch)
    dataset = labelled(shards)
    assert len(dataset) == 44 and dataset.get_data_info(43)["gt_label"] == 1 and found == []
    assert seen(dataset, keys(start=3)) == whole[3 * GLOBAL_BATCH :]
    assert len(found) == 2 * GLOBAL_BATCH
    assert found == [f"{shards}/{index // 12:03}.tar" for _, _, index, _ in keys(start=3)]


class Bytes(Shards):
    """Return the bytes in the shards, without a pipeline."""

    def __getitem__(self, index):
        return self.prepare_data(index)["img_bytes"]


def test_workers_read_one_shard_at_the_same_time(tmp_path):
    content = [bytes([i]) * (40_000 + 1000 * i) for i in range(24)]
    made = ({"__key__": f"{i:02}", "jpg": data} for i, data in enumerate(content))
    xtra(shard(made, tmp_path / "one"), "--shards")
    dataset = Bytes(str(tmp_path / "one"), pipeline=[])
    assert dataset[5] == content[5]  # before the fork, since open files are inherited
    order = torch.randint(24, (600,), generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(dataset, sampler=order, batch_size=None, num_workers=2)
    assert all(data == content[i] for i, data in zip(order, loader, strict=True))


# ---- Whole runs ---------------------------------------------------------------------------------


def _begin(rank, folder, dataset):
    _, noted = run(folder / "two", "MAE", drop_path=0.0, dataset=dataset, **DDP)
    return noted.steps


def test_pretraining_on_shards_equals_pretraining_on_the_folder(
    shards, photos, tmp_path, monkeypatch
):
    options = dict(drop_path=0.0, batch_size=8)
    grey = ImageFolder(str(photos), pipeline=GREY)
    _, folder = run(tmp_path / "folder", "MAE", dataset=grey, **options)
    grey = Shards(str(shards), with_label=True, pipeline=GREY)
    first, second = on_two(_begin, tmp_path, grey)
    assert list(folder.steps) == list(range(15))
    for step, noted in folder.steps.items():
        assert noted == tuple(a + b for a, b in zip(first[step], second[step], strict=True))
    found = opened(monkeypatch)
    options |= dict(load_from=str(tmp_path / "two" / "iter_7.pth"), resume=True)
    _, rest = run(tmp_path / "rest", "MAE", dataset=grey, **options)
    assert rest.steps == {step: folder.steps[step] for step in range(7, 15)}
    assert len(found) == 8 * GLOBAL_BATCH


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_replaced_and_listed(photos, tmp_path, workers):
    made = list(samples(photos))
    made[14]["jpg"] = made[14]["jpg"][:-400]
    folder = shard(made, tmp_path / "shards", maxcount=12)
    xtra(folder, "--shards")
    with pytest.raises(UnreadableImage, match=r"001\.tar!even/028\.jpg': .*truncated"):
        Shards(str(folder), pipeline=GREY)[14]
    hooks = dict(bad_images=dict(type="xtra_toolkit.SkipBadImages"))
    dataset = Shards(str(folder), pipeline=GREY)
    _, noted = run(tmp_path / "run", "MAE", dataset=dataset, default_hooks=hooks, workers=workers)
    assert all(len(images) == GLOBAL_BATCH for images, _ in noted.steps.values())
    (line,) = (tmp_path / "run" / "bad_images.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == f"{folder}/001.tar!even/028.jpg"
    assert "image file is truncated" in json.loads(line)["cause"]


# ---- Messages -----------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-20_000])


def changed(path):
    """Replace an image by one of another size."""
    shard(({"__key__": f"{i:02}", "cls": 0, "jpg": bytes(3000)} for i in range(12)), path.parent)


def renamed(path):
    """Replace an image by one of the same size, as happens in formats without compression."""
    with tarfile.open(path) as tar:
        files = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for member, content in files:
            member.name = member.name.replace("043", "044")
            tar.addfile(member, io.BytesIO(content))


def shifted(path):
    path.write_bytes(path.read_bytes()[512:])


CHANGED = "OSError: the shard has changed: list it again with xtra index --shards --force"
CHANGES = {
    "absent": (Path.unlink, "FileNotFoundError"),
    "cut": (cut, "OSError: the shard ends before the image does"),
    "changed": (changed, CHANGED),
    "renamed": (renamed, CHANGED),
    "shifted": (shifted, CHANGED),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_shard_is_reported_by_its_name(shards, change):
    changing, cause = CHANGES[change]
    dataset = labelled(shards)
    index, name = (0, "000.tar!even/000.jpg") if change == "changed" else (43, "003.tar!odd/043")
    changing(shards / name.partition("!")[0])
    with pytest.raises(UnreadableImage, match=f"{name}.*{cause}"):
        dataset[index]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ([], r"No images in the \d tar files below .*webdataset\.ShardWriter"),
        ([{"__key__": "a", "txt": "b"}], r"No images in the 1 tar files below"),
        ([{"__key__": "a", "jpg": b"", "png": b""}], r"000\.tar': the sample 'a' has 2 images"),
        ([{"__key__": "a", "jpg": b""}], r"000\.tar': the sample 'a' has b'' for label \(\.cls\)"),
        (
            [{"__key__": "a", "jpg": b"", "cls": "cat"}],
            r"000\.tar': the sample 'a' has b'cat' for label",
        ),
        ([{"__key__": "a", "jpg": b""}] * 2, r"000\.tar': a\.jpg: duplicate file name"),
    ],
)
def test_samples_that_cannot_be_listed_are_refused(tmp_path, made, sentence):
    result = xtra(shard(made, tmp_path / "x"), "--shards", "--with-label")
    assert result.exit_code == 1
    assert re.search(sentence, result.output), result.output
    assert not (tmp_path / "x" / "index.txt").exists()


@pytest.mark.parametrize("content", [b"no tar", b"\x1f\x8b compressed", b""])
def test_a_file_that_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    result = xtra(tmp_path, "--shards")
    assert result.exit_code == 1 and f"Cannot list the shard '{tmp_path}/x.tar'" in result.output


def test_an_absent_or_other_list_is_refused_with_a_message(shards, photos):
    with pytest.raises(ValueError, match=r"index\.txt.*xtra index FOLDER --shards"):
        Shards(str(photos))
    with pytest.raises(ValueError, match=r"Line 1 of .*names no place in a shard.*--shards"):
        Shards(str(shards)).get_data_info(0)  # it has labels
    xtra(photos, "--out", shards / "folder.txt")
    with pytest.raises(ValueError, match=r"Line 3 of .*names no place in a shard"):
        Shards(str(shards), ann_file="folder.txt").get_data_info(2)


def test_without_webdataset_shards_are_read_but_not_listed(shards, monkeypatch):
    expected = labelled(shards)[3, 0, 0]["inputs"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "webdataset"]:
        monkeypatch.setitem(sys.modules, name, None)
    result = xtra(shards, "--shards", "--force")
    assert result.exit_code == 1 and "pip install xtra_toolkit[shards]" in result.output
    assert torch.equal(labelled(shards)[3, 0, 0]["inputs"], expected)


def tar_of(path, *sizes):
    """Write images of the given sizes, and return where each header is."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for i, size in enumerate(sizes):
            info = tarfile.TarInfo(f"{i:02}.jpg")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


def resized(data, at, size):
    """Return a tar file whose header at that byte gives another size, with its checksum."""
    header = bytearray(data[at : at + 512])
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    return data[:at] + bytes(header) + data[at + 512 :]


DAMAGES = {
    "cut inside a header": (lambda data, at: data[: at[2] + 300], "where one must follow"),
    "a header overwritten": (
        lambda data, at: data[: at[1]] + b"x" * 512 + data[at[1] + 512 :],
        "where one must follow",
    ),
    "a negative size": (lambda data, at: resized(data, at[1], -1024), "in it has a size of -1024"),
    "a size beyond the end": (lambda data, at: resized(data, at[2], 10**6), "unexpected end"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_not_listed(damage, tmp_path):
    at, (damaging, cause) = tar_of(tmp_path / "a.tar", 700, 700, 700), DAMAGES[damage]
    (tmp_path / "a.tar").write_bytes(damaging((tmp_path / "a.tar").read_bytes(), at))
    done = xtra(tmp_path, "--shards")
    assert done.exit_code == 1 and not (tmp_path / "index.txt").exists()
    assert f"Cannot list the shard '{tmp_path}/a.tar': " in done.output
    assert cause in done.output


def test_a_sparse_image_is_refused_when_it_is_listed(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"x")
    os.truncate(tmp_path / "0.jpg", 1 << 20)
    subprocess.run(["tar", "-cSf", "a.tar", "0.jpg"], cwd=tmp_path, check=True)
    done = xtra(tmp_path, "--shards")
    assert done.exit_code == 1 and "'0.jpg' in it is a sparse file" in done.output


def test_a_shard_in_a_folder_named_like_a_shard_is_refused(tmp_path):
    root = tmp_path / "x.tar!" / "y.tar!"
    root.mkdir(parents=True)
    tar_of(root / "a.tar", 700)
    done = xtra(tmp_path, "--shards")
    assert done.exit_code == 1 and "its name has '.tar!'" in done.output
    assert xtra(root, "--shards").exit_code == 0  # the name may occur in a folder above the list
    info = Shards(str(root)).get_data_info(0)
    assert info["img_path"] == f"{root}/a.tar!00.jpg" and info["place"][0] == f"{root}/a.tar"


def test_the_cause_of_an_unreadable_shard_is_named(tmp_path):
    (tmp_path / "a.tar").symlink_to("a.tar")
    done = xtra(tmp_path, "--shards")
    assert done.exit_code == 1 and "a.tar': Too many levels of symbolic links" in done.output
