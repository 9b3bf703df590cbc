"""Load a model from its config and checkpoint, and read image files as its input."""

from pathlib import Path

import numpy as np
import torch
from mmpretrain.registry import MODELS
from PIL import Image, ImageOps
from torch import Tensor, nn

from xtra_toolkit.data import LoadImage
from xtra_toolkit.visualization.objectives.build import read_config
from xtra_toolkit.weights.read import read_state

COLOURS = {1: "grayscale", 3: "color"}  # MMCV's name of the colour type by number of channels


def load_model(config: Path, checkpoint: Path) -> nn.Module:
    """Build the model of a pretraining config, load a checkpoint, and set evaluation mode.

    Nothing in the checkpoint is executed.

    Raises:
        ValueError: If the config has no pretraining model, or the checkpoint does not fit it.
    """
    cfg = read_config(config)
    cfg.model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    model = MODELS.build(cfg.model)
    state, expected = read_state(checkpoint), model.state_dict().keys()
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        raise ValueError(
            f"{checkpoint} is no checkpoint of the model in {config}: {_some('lacks', missing)}"
            f"{' and ' if missing and unknown else ''}{_some('has, unknown to it,', unknown)}; "
            "name the config that it was trained with, or convert it first (xtra convert)"
        )
    model.load_state_dict(state)
    return model.eval()


def _some(verb: str, names: list[str]) -> str:
    return f"it {verb} {len(names)} tensors, the first {names[0]!r}" if names else ""


def read_images(paths: list[Path], model: nn.Module) -> Tensor:
    """Read image files as (B, C, height, width), resized, centre-cropped and normalised.

    Raises:
        ValueError: If a file is no image, or the model takes images of neither 1 nor 3 channels.
    """
    grid = model.objective.grid
    if grid.channels not in COLOURS:
        raise ValueError(
            f"the model takes images of {grid.channels} channels; image files are read as grey (1) "
            "or colour (3)"
        )
    load, size = LoadImage(color_type=COLOURS[grid.channels]), (grid.cols, grid.rows)
    size = tuple(tokens * side for tokens, side in zip(size, grid.patch[::-1], strict=True))
    fitted = []
    for path in paths:
        image = Image.fromarray(load(dict(img_path=str(path)))["img"].squeeze())
        fitted.append(np.array(ImageOps.fit(image, size, Image.Resampling.BICUBIC)))
    stack = torch.from_numpy(np.stack(fitted)).view(len(paths), *size[::-1], grid.channels)
    device = next(model.parameters()).device
    data = dict(inputs=stack.permute(0, 3, 1, 2).to(device), data_samples=None)
    return model.data_preprocessor(data)["inputs"]


def to_pixels(images: Tensor, preprocessor: nn.Module) -> np.ndarray:
    """Convert normalised images to (B, height, width, 4) uint8 RGBA; NaN becomes transparent."""
    if getattr(preprocessor, "_enable_normalize", False):
        images = images * preprocessor.std + preprocessor.mean
    if not getattr(preprocessor, "_channel_conversion", False):
        images = images.flip(1)  # files are read as BGR
    alpha = images[:, :1].isnan().logical_not() * 255
    pixels = images.nan_to_num().round().clamp(0, 255).expand(-1, 3, -1, -1)
    return torch.cat([pixels, alpha], 1).byte().permute(0, 2, 3, 1).cpu().numpy()
