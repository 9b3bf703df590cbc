"""Write real JPEGs without a download: crops of photographs that two packages ship."""

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images


def write(folder, count, size=160):
    """Write ``count`` crops of ``size`` px into two sub-folders, one for each class."""
    photographs = [*load_sample_images().images, data.astronaut()]
    rng = np.random.default_rng(0)
    for i in range(count):
        photo = photographs[i % len(photographs)]
        y, x = (rng.integers(0, side - size) for side in photo.shape[:2])
        place = folder / ("odd" if i % 2 else "even")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[y : y + size, x : x + size]).save(place / f"{i:03}.jpg")
    return folder


def write_classes(folder, each, size=280):
    """Write ``each`` crops of four photographs; those of one photograph are one class."""
    china, flower = load_sample_images().images
    photographs = dict(cat=data.chelsea(), china=china, coffee=data.coffee(), flower=flower)
    rng = np.random.default_rng(0)
    for name, photo in photographs.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            y, x = (rng.integers(0, side - size) for side in photo.shape[:2])
            Image.fromarray(photo[y : y + size, x : x + size]).save(folder / name / f"{i:03}.jpg")
    return folder
