"""Read the training and validation splits of benchmarks from their published metadata.

A reader takes the unpacked folder and yields (split, path below the folder, label). The split is
``'train'`` or ``'val'``, on which XTRA trains and validates. The WILDS splits are those of
p-lambda/wilds at 4726775.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

from xtra_toolkit.utils.atomic import replacing

Sample = tuple[str, str, int]  # (split, path, label)


def camelyon17(source: Path) -> Iterator[Sample]:
    """Train on hospitals 0, 3 and 4 without WILDS' held-out tenth; validate on hospital 1."""
    columns = ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split")
    for row in _rows(source / "metadata.csv", *columns):
        patient, node, x, y, tumor, center, held_out = (row[name] for name in columns)
        folder = f"patient_{patient}_node_{node}"
        path = f"patches/{folder}/patch_{folder}_x_{x}_y_{y}.png"
        if center == "1":
            yield "val", path, _number(tumor)
        elif center != "2" and held_out == "0":
            yield "train", path, _number(tumor)


def eurosat(source: Path) -> Iterator[Sample]:
    """Validate on numbers that end in 0, leave out those that end in 5, train on the others.

    There is no official split.
    """
    classes = sorted(path.name for path in source.iterdir() if path.is_dir())
    if len(classes) != 10:
        raise ValueError(
            f"{source} has {len(classes)} folders; EuroSAT has 10, AnnualCrop to SeaLake."
        )
    for label, name in enumerate(classes):
        for path in sorted((source / name).glob("*.jpg")):
            number = re.fullmatch(rf"{name}_(\d+)", path.stem)
            if number is None:
                raise ValueError(f"{path} is not named as EuroSAT's images, {name}_1.jpg.")
            last = int(number[1]) % 10
            if last != 5:
                yield "train" if last else "val", f"{name}/{path.name}", label


def fmow(source: Path) -> Iterator[Sample]:
    """Train on the images before 2013, validate on 2013 to 2015; number categories by name."""
    rows = list(_rows(source / "rgb_metadata.csv", "split", "category", "timestamp"))
    labels = {name: i for i, name in enumerate(sorted({row["category"] for row in rows}))}
    for i, row in enumerate(rows):
        year, split = _number(row["timestamp"][:4]), row["split"]
        if (split == "train" and year < 2013) or (split == "val" and 2013 <= year < 2016):
            yield split, f"images/rgb_img_{i}.png", labels[row["category"]]


def inat18(source: Path) -> Iterator[Sample]:
    """Use the competition's train and val; labels are the category ids, 0 to 8141."""
    for split in ("train", "val"):
        content = json.loads(_file(source / f"{split}2018.json").read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for annotation in content["annotations"]:
            yield split, names[annotation["image_id"]], annotation["category_id"]


def iwildcam(source: Path) -> Iterator[Sample]:
    """Use the official train and val, which are from different camera traps."""
    for row in _rows(source / "metadata.csv", "split", "filename", "y"):
        if row["split"] in ("train", "val"):
            yield row["split"], f"train/{row['filename']}", _number(row["y"])


def pcam(source: Path) -> Iterator[Sample]:
    """Use train and valid; write the images of the HDF5 files as PNG into train/ and val/."""
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            "PatchCamelyon is published as HDF5, and h5py is not installed: "
            "pip install xtra_toolkit[benchmarks]"
        ) from error
    from PIL import Image

    for split, name in (("train", "train"), ("val", "valid")):
        stem = f"camelyonpatch_level_2_split_{name}"
        x, y = (_file(source / f"{stem}_{part}.h5") for part in "xy")
        (source / split).mkdir(exist_ok=True)
        with h5py.File(x) as images, h5py.File(y) as labels:
            for i, label in enumerate(labels["y"][:].flatten().tolist()):
                path = f"{split}/{i:06}.png"
                with replacing(source / path) as file:
                    Image.fromarray(images["x"][i]).save(file, "PNG")
                yield split, path, label


def rxrx1(source: Path) -> Iterator[Sample]:
    """Train on the images of site 1 of each well in train; validate on both sites in val."""
    columns = ("dataset", "experiment", "plate", "well", "site", "sirna_id")
    for row in _rows(source / "metadata.csv", *columns):
        split, experiment, plate, well, site, label = (row[name] for name in columns)
        if split == "val" or (split == "train" and site == "1"):
            yield split, f"images/{experiment}/Plate{plate}/{well}_s{site}.png", _number(label)


READERS = {f.__name__: f for f in (camelyon17, eurosat, fmow, inat18, iwildcam, pcam, rxrx1)}


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"There is no {path}: give the folder that holds {path.name}, unpacked.")
    return path


def _rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file; raise a ValueError if it lacks one of the columns."""
    with open(_file(path), newline="") as file:
        table = csv.DictReader(file)
        if absent := sorted(set(columns) - set(table.fieldnames or ())):
            raise ValueError(
                f"{path} has no column {', '.join(absent)}; it has {table.fieldnames}. Is it the "
                "published file?"
            )
        yield from table


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"The metadata has {text!r} where a whole number is expected.")
    return int(text)
