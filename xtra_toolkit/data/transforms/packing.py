"""From arrays to a batch whose pixels lie as they were decoded, (H, W, C), as far as the device."""

from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmpretrain.datasets.transforms import PackInputs as _PackInputs
from torch import Tensor

from xtra_toolkit.registry import FUNCTIONS, TRANSFORMS


@TRANSFORMS.register_module()
class PackInputs(_PackInputs):
    """MMPretrain's, but ``inputs``, (C, H, W), is a view of ``img``, (H, W, C).

    To write planes takes 0.1 ms, a twelfth of all that an image needs.
    """

    @staticmethod
    def format_input(input_: Any) -> Tensor | list[Tensor]:
        """An image or several to tensors."""
        if isinstance(input_, np.ndarray) and input_.ndim == 3:
            return torch.from_numpy(np.ascontiguousarray(input_)).permute(2, 0, 1)
        return _PackInputs.format_input(input_)


@FUNCTIONS.register_module()
def channels_last_collate(samples: list[dict]) -> dict:
    """MMEngine's ``default_collate``; ``inputs``, (B, C, H, W), is channels-last in memory."""
    turned = [dict(sample, inputs=sample["inputs"].movedim(0, -1)) for sample in samples]
    batch = default_collate(turned)
    return dict(batch, inputs=batch["inputs"].movedim(-1, 1))
