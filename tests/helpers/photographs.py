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
