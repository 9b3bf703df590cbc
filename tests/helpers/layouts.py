"""Write small made-up copies of the 15 benchmark data sets, laid out as they are published."""

import csv
import io
import json
import pickle

import mat4py
import numpy as np
from click.testing import CliRunner
from PIL import Image

from xtra_toolkit.cli import main


def picture(seed=0, suffix="jpeg"):
    """Return the bytes of a 12×10 image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(stream := io.BytesIO(), suffix)
    return stream.getvalue()


def put(root, *names, content=None):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content or picture(i, "png" if name.endswith("png") else "jpeg"))


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def table(path, header, *rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def convert(name, root):
    result = CliRunner().invoke(main, ["dataset", name, str(root)])
    assert result.exit_code == 0, result.output
    return result.output


def imagenet(root):
    """Write a thousand classes that are all links to the same folder."""
    put(root, "class/1.JPEG")
    (root / "train").mkdir()
    for i in range(1000):
        (root / "train" / f"n{i:08}").symlink_to("../class")
    (root / "val").symlink_to("train")


def cifar(root, folder, batches, labels):
    (root / folder).mkdir()
    for name in batches:
        data = dict(data=np.tile(np.repeat(np.uint8([10, 20, 30]), 1024), (4, 1)))  # a brown
        (root / folder / name).write_bytes(pickle.dumps(data | {labels: [0, 3, 5, 9]}))


def cifar10(root):
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    cifar(root, "cifar-10-batches-py", batches, "labels")


def cifar100(root):
    cifar(root, "cifar-100-python", ["train", "test"], "fine_labels")


def food101(root):
    names = ["apple_pie/1", "waffles/2", "waffles/3"]
    put(root, *(f"images/{name}.jpg" for name in names))
    text(root / "meta/train.txt", *names[:2])
    text(root / "meta/test.txt", *names[1:])


def dtd(root):
    names = ["banded/1.jpg", "zigzagged/2.jpg", "zigzagged/3.jpg"]
    put(root, *(f"images/{name}" for name in names))
    (root / "imdb").mkdir()
    images = {"name": names, "class": [1, 47, 47], "set": [1, 2, 3]}
    mat4py.savemat(str(root / "imdb/imdb.mat"), {"images": images})


def cars(root):
    (root / "devkit").mkdir(parents=True)
    for split, file in (("train", "train_annos"), ("test", "test_annos_withlabels")):
        put(root, f"cars_{split}/00001.jpg", f"cars_{split}/00002.jpg")
        notes = {"fname": ["00001.jpg", "00002.jpg"], "class": [1, 196]}
        mat4py.savemat(str(root / f"devkit/cars_{file}.mat"), {"annotations": notes})


def pets(root):
    put(root, "images/Abyssinian_1.jpg", "images/yorkshire_terrier_2.jpg")
    lines = ["Abyssinian_1 1 1 1", "yorkshire_terrier_2 37 2 25"]
    text(root / "annotations/trainval.txt", *lines)
    text(root / "annotations/test.txt", *lines)


def infograph(root):
    names = ["infograph/aircraft_carrier/1.jpg", "infograph/zigzag/2.jpg"]
    put(root, *names)
    for split in ("train", "test"):
        text(root / f"infograph_{split}.txt", f"{names[0]} 0", f"{names[1]} 344")


def inat18(root):
    for split in ("train", "val"):
        names = [f"train_val2018/Aves/{i}/{split}.jpg" for i in (3, 8141)]
        put(root, *names)
        images = [dict(id=i, file_name=name) for i, name in enumerate(names)]
        notes = [dict(image_id=1, category_id=8141), dict(image_id=0, category_id=3)]
        text(root / f"{split}2018.json", json.dumps(dict(images=images, annotations=notes)))
    return convert("inat18", root)


def eurosat(root):
    classes = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial")
    classes += ("Pasture", "PermanentCrop", "Residential", "River", "SeaLake")
    put(root, *(f"{name}/{name}_{i}.jpg" for name in classes for i in (4, 5, 10, 11)))
    return convert("eurosat", root)


def iwildcam(root):
    rows = [[s, f"{s}.jpg", y] for s, y in (("train", 0), ("val", 181), ("test", 2), ("id_val", 3))]
    rows.append(["train", "other.jpg", 5])
    put(root, *(f"train/{row[1]}" for row in rows))
    table(root / "metadata.csv", "split,filename,y", *rows)
    return convert("iwildcam", root)


def camelyon17(root):
    rows = []  # of hospitals 0 to 4, each with one of WILDS' split 0 and one of 1
    for center in range(5):
        for split in (0, 1):
            folder = f"patient_00{center}_node_{split}"
            put(root, f"patches/{folder}/patch_{folder}_x_7_y_9.png")
            rows.append([len(rows), f"00{center}", split, 7, 9, center % 2, center, split])
    table(root / "metadata.csv", ",patient,node,x_coord,y_coord,tumor,center,split", *rows)
    return convert("camelyon17", root)


def rxrx1(root):
    rows = []
    for dataset in ("train", "val", "test"):
        for well, site, label in (("B02", 1, 0), ("B02", 2, 0), ("C03", 1, 1138)):
            rows.append([dataset, f"HEPG2-{dataset}", 1, well, site, label])
            put(root, f"images/HEPG2-{dataset}/Plate1/{well}_s{site}.png")
    table(root / "metadata.csv", "dataset,experiment,plate,well,site,sirna_id", *rows)
    return convert("rxrx1", root)


def fmow(root):
    rows = [
        [split, category, f"{year}-07-14T08:56:42Z"]
        for split in ("train", "val", "test", "seq")
        for category, year in (("zoo", 2012), ("airport", 2013), ("zoo", 2015), ("airport", 2016))
    ] + [["train", "airport", "2002-01-01T00:00:00Z"]]
    put(root, *(f"images/rgb_img_{i}.png" for i in range(len(rows))))
    table(root / "rgb_metadata.csv", "split,category,timestamp", *rows)
    return convert("fmow", root)


def pcam(root):
    """Write the layout that ``xtra dataset`` makes; test_dataset.py tests the command."""
    for split in ("train", "val"):
        put(root, f"{split}/000000.png", f"{split}/000001.png")
        text(root / f"{split}.txt", f"{split}/000000.png 0", f"{split}/000001.png 1")


LAYOUTS = {
    f.__name__: f
    for f in (inat18, cifar10, cifar100, food101, dtd, pets, cars, iwildcam, camelyon17, pcam)
} | {f.__name__: f for f in (rxrx1, eurosat, fmow, infograph, imagenet)}
