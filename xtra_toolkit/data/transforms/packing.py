"""Pack images into a batch whose memory stays (H, W, C), as decoded, up to the device."""

from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmpretrain.datasets.transforms import PackInputs as _PackInputs
from torch import Tensor

from xtra_toolkit.registry import FUNCTIONS, TRANSFORMS


@TRANSFORMS.register_module()
class PackInputs(_PackInputs):
    """MMPretrain's PackInputs, except that ``inputs``, (C, H, W), is a view of ``img``, (H, W, C).

    Writing planes would take 0.1 ms, a twelfth of the time of a whole image.
    """

    @staticmethod
    def format_input(input_: Any) -> Tensor | list[Tensor]:
        """Convert one image or several to tensors."""
        if isinstance(input_, np.ndarray) and input_.ndim == 3:
            return torch.from_numpy(np.ascontiguousarray(input_)).permute(2, 0, 1)
        return _PackInputs.format_input(input_)


@FUNCTIONS.register_module()
def channels_last_collate(samples: list[dict]) -> dict:
    """Collate as MMEngine's default; ``inputs``, (B, C, H, W), is channels-last in memory."""
    turned = [dict(sample, inputs=sample["inputs"].movedim(0, -1)) for sample in samples]
    batch = default_collate(turned)
    return dict(batch, inputs=batch["inputs"].movedim(-1, 1))
