"""Write folders of small images with classes that a model can learn, and a checkpoint."""

import numpy as np
import torch
from PIL import Image

from helpers.builds import pretrainer, randomise

PREPROCESSOR = dict(
    type="mmpretrain.SelfSupDataPreprocessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)


def write_images(folder, counts, seed=0):
    """Write images into sub-folders.

    Args:
        folder: The folder.
        counts: Number of images for each sub-folder. In a sub-folder whose name ends with 'a' the
            upper half of the images is black, in the others the lower half.
        seed: Seed of the images.
    """
    rng = np.random.default_rng(seed)
    for place, count in counts.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = rng.integers(0, 255, (80, 70, 3), dtype=np.uint8)
            half = slice(0, 40) if place.endswith("a") else slice(40, 80)
            image[half] = 0
            Image.fromarray(image).save(folder / place / f"{i:02}.png")
    return folder


def write_checkpoint(path, mask="block", target="block", **options):
    """Write the checkpoint of a small pretrainer, and return the pretrainer."""
    model = randomise(pretrainer(mask, target, data_preprocessor=PREPROCESSOR, **options))
    torch.save(dict(state_dict=model.state_dict()), path)
    return model
